// A balance robot on an Arduino core: MPU-6050 on I2C, quadrature encoders, two DC motors behind a TB6612FNG.
//
// Wiring: docs/bench-to-robot.md. Compiled, and run against a simulated robot behind the Arduino API; not tried on hardware.

#include <Arduino.h>
#include <Wire.h>

#include <atomic>
#include <cmath>

#include "robot.h"
#include "speed_command.h"

namespace {

// --- your robot ---------------------------------------------------------------------------------------------------------------

struct WheelPins {
  uint8_t encoder_a, encoder_b;     // swap them if the speed has the wrong sign
  uint8_t forward, backward, duty;  // swap the first two if the motor turns the wrong way
};
constexpr WheelPins kPins[2] = {{2, 3, 6, 7, 8}, {4, 5, 9, 10, 11}};  // left, right
constexpr uint8_t kStandbyPin = 12;                                   // low: motors off; with a pull-down, so also in a reset
constexpr float kCountsPerTurn = 1320.0f;                             // of a wheel: 11 pulses, 4 edges each, gear 30:1
constexpr float kNoLoadRadS = 90.0f;                                  // of a wheel at full duty
constexpr float kDutyPerRadS = 0.05f;  // gain of the speed servo; `hil identify` measures the result
constexpr float kFallenRad = 0.87f;
constexpr float kGyroTrustS = 0.5f;  // time constant of the complementary filter: below it the gyroscope, above it gravity

// --- MPU-6050: x forward, y left, z up
// ------------------------------------------------------------------------------------------

constexpr uint8_t kAddress = 0x68, kWhoAmI = 0x75, kIsMpu6050 = 0x68, kFirstValue = 0x3B;
constexpr uint8_t kSetup[][2] = {
    {0x6B, 0x01},  // awake, clock of the gyroscope
    {0x1A, 0x01},  // low pass at 184 Hz: 2 ms of delay
    {0x1B, 0x08},  // gyroscope to 500 degrees/s
    {0x1C, 0x08},  // accelerometer to 4 g
};
constexpr float kRadSPerCount = 0.01745329f / 65.5f;
constexpr int kRestSamples = 200;
constexpr float kRestRadS = 0.05f;  // more is motion

struct Motion {
  float forward, up;       // specific force, in any unit
  float pitch_rate_rad_s;  // about the axle, as the gyroscope has it
};

bool ReadRegisters(uint8_t first, uint8_t* bytes, uint8_t count) {
  Wire.beginTransmission(kAddress);
  Wire.write(first);
  if (Wire.endTransmission(false) != 0 || Wire.requestFrom(kAddress, count) != count) return false;
  for (uint8_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(Wire.read());
  return true;
}

bool WriteRegister(uint8_t address, uint8_t value) {
  Wire.beginTransmission(kAddress);
  Wire.write(address);
  Wire.write(value);
  return Wire.endTransmission() == 0;
}

bool ReadMotion(Motion* motion) {
  uint8_t bytes[14];  // acceleration x, y, z; temperature; rates x, y, z: big-endian
  if (!ReadRegisters(kFirstValue, bytes, sizeof bytes)) return false;
  const auto value = [&bytes](size_t i) {
    return static_cast<float>(static_cast<int16_t>(bytes[2 * i] << 8 | bytes[2 * i + 1]));
  };
  *motion = {value(0), value(2), value(5) * kRadSPerCount};
  return true;
}

/// Tilted forward, gravity pulls along x: the sensor feels less than nothing there.
float PitchOfGravity(const Motion& motion) { return std::atan2(-motion.forward, motion.up); }

// --- a wheel: encoder, speed servo, motor driver
// ----------------------------------------------------------------------------------

class Wheel {
 public:
  explicit constexpr Wheel(const WheelPins& pins) : pins_(pins) {}

  void Begin(void (*on_edge)()) {
    for (const uint8_t pin : {pins_.encoder_a, pins_.encoder_b}) {
      pinMode(pin, INPUT_PULLUP);
      attachInterrupt(digitalPinToInterrupt(pin), on_edge, CHANGE);
    }
    for (const uint8_t pin : {pins_.forward, pins_.backward, pins_.duty}) pinMode(pin, OUTPUT);
  }

  /// An encoder input has changed.
  void OnEdge() {
    constexpr int8_t kTurn[16] = {0, 1, -1, 0, -1, 0, 0, 1, 1, 0, 0, -1, 0, -1, 1, 0};  // by the inputs before and now
    inputs_ = static_cast<uint8_t>((inputs_ << 2 | digitalRead(pins_.encoder_a) << 1 | digitalRead(pins_.encoder_b)) & 15);
    count_ += kTurn[inputs_];
    edge_us_ = micros();
  }

  /// Every millisecond: measures the speed, from edge to edge, and sets the duty cycle.
  void Tick(bool on) {
    constexpr float kRadPerCount = 6.2831853f / kCountsPerTurn;
    noInterrupts();  // edges may be more urgent than this interrupt
    const int32_t count = count_;
    const auto edge_us = static_cast<uint32_t>(edge_us_);
    interrupts();
    float speed = speed_rad_s_.load();
    if (count != last_count_ && edge_us != last_edge_us_) {
      speed = static_cast<float>(count - last_count_) * kRadPerCount * 1e6f / static_cast<float>(edge_us - last_edge_us_);
      last_count_ = count;
      last_edge_us_ = edge_us;
    } else {  // no faster than one count since the last edge
      const float limit = kRadPerCount * 1e6f / static_cast<float>(static_cast<uint32_t>(micros()) - last_edge_us_ + 1);
      speed = std::clamp(speed, -limit, limit);
    }
    speed_rad_s_.store(speed);
    Drive(on ? command_rad_s_.load() / kNoLoadRadS + kDutyPerRadS * (command_rad_s_.load() - speed) : 0.0f);
  }

  void Step(float step_rad_s) { command_rad_s_.store(robot::NextCommand(command_rad_s_.load(), step_rad_s, speed_rad_s())); }
  float speed_rad_s() const { return speed_rad_s_.load(); }

 private:
  void Drive(float duty) {
    const float limited = std::clamp(duty, -1.0f, 1.0f);
    digitalWrite(pins_.forward, limited > 0.0f ? HIGH : LOW);
    digitalWrite(pins_.backward, limited < 0.0f ? HIGH : LOW);
    analogWrite(pins_.duty, static_cast<int>(255.0f * std::abs(limited)));
  }

  WheelPins pins_;
  uint8_t inputs_ = 0;
  volatile int32_t count_ = 0;
  volatile unsigned long edge_us_ = 0;
  int32_t last_count_ = 0;
  uint32_t last_edge_us_ = 0;
  std::atomic<float> speed_rad_s_{0.0f};
  std::atomic<float> command_rad_s_{0.0f};
};

Wheel left(kPins[0]);
Wheel right(kPins[1]);
std::atomic<bool> motors_on{false};

void EveryMillisecond() {
  robot::OnMillisecond();
  left.Tick(motors_on.load());
  right.Tick(motors_on.load());
}

void StartTimer() {
#if defined(CORE_TEENSY)
  static IntervalTimer timer;
  timer.begin(EveryMillisecond, 1000);
#elif defined(ARDUINO_ARCH_STM32)
  static HardwareTimer timer(TIM6);
  timer.setOverflow(1000, HERTZ_FORMAT);
  timer.attachInterrupt(EveryMillisecond);
  timer.resume();
#else
#error "call EveryMillisecond() from a timer interrupt of your core"
#endif
}

// --- start, and the loop's period
// -------------------------------------------------------------------------------------------------

float pitch_rad = 0.0f;
float rest_rad_s = 0.0f;  // what the gyroscope shows at rest

/// Once, with the robot at rest for two seconds.
bool Begin() {
  Serial.begin(921600);
  left.Begin([] { left.OnEdge(); });
  right.Begin([] { right.OnEdge(); });
  Wire.begin();
  Wire.setClock(400000);
  uint8_t who = 0;
  if (!ReadRegisters(kWhoAmI, &who, 1) || who != kIsMpu6050) return false;
  for (const auto& [address, value] : kSetup) {
    if (!WriteRegister(address, value)) return false;
  }
  delay(100);
  Motion motion{};
  float sum = 0.0f, least = 0.0f, most = 0.0f;
  for (int i = 0; i < kRestSamples; ++i) {
    if (!ReadMotion(&motion)) return false;
    sum += motion.pitch_rate_rad_s;
    least = i == 0 ? motion.pitch_rate_rad_s : std::min(least, motion.pitch_rate_rad_s);
    most = i == 0 ? motion.pitch_rate_rad_s : std::max(most, motion.pitch_rate_rad_s);
    delay(5);
  }
  rest_rad_s = sum / kRestSamples;
  pitch_rad = PitchOfGravity(motion);
  StartTimer();
  return most - least < kRestRadS;
}

void WaitForPeriod() {
  static auto next_us = static_cast<uint32_t>(micros());
  next_us += hil_signals::kControlPeriodUs;
  auto left_us = static_cast<int32_t>(next_us - static_cast<uint32_t>(micros()));
  if (left_us < 0) next_us -= static_cast<uint32_t>(left_us);  // too late: from now on
  for (; left_us > 0; left_us = static_cast<int32_t>(next_us - static_cast<uint32_t>(micros()))) yield();
}

}  // namespace

bool robot::ReadObservation(hil_signals::Observation* observation) {
  static bool ready = Begin();
  WaitForPeriod();
  Motion motion{};
  if (!ready || !ReadMotion(&motion)) return false;
  constexpr float kPeriodS = hil_signals::kControlPeriodUs * 1e-6f;
  constexpr float kGyroShare = kGyroTrustS / (kGyroTrustS + kPeriodS);
  const float rate_rad_s = motion.pitch_rate_rad_s - rest_rad_s;
  pitch_rad = kGyroShare * (pitch_rad + kPeriodS * rate_rad_s) + (1.0f - kGyroShare) * PitchOfGravity(motion);
  observation->pitch_rad = pitch_rad;
  observation->pitch_rate_rad_s = rate_rad_s;
  observation->wheel_left_speed_rad_s = left.speed_rad_s();
  observation->wheel_right_speed_rad_s = right.speed_rad_s();
  observation->speed_error_rad_s = -(left.speed_rad_s() + right.speed_rad_s()) / 2;  // both targets are 0
  observation->wheel_speed_difference_error_rad_s = -(right.speed_rad_s() - left.speed_rad_s());
  return std::abs(pitch_rad) < kFallenRad;
}

void robot::Apply(const hil_signals::Action& action) {
  left.Step(action.wheel_left_speed_step_rad_s);
  right.Step(action.wheel_right_speed_step_rad_s);
  motors_on.store(true);
  digitalWrite(kStandbyPin, HIGH);
}

void robot::SafeState() {
  motors_on.store(false);
  pinMode(kStandbyPin, OUTPUT);
  digitalWrite(kStandbyPin, LOW);
}

uint32_t robot::NowUs() { return static_cast<uint32_t>(micros()); }

size_t robot::Send(const char* data, size_t size) {
  const auto room = static_cast<size_t>(std::max(0, Serial.availableForWrite()));
  return Serial.write(reinterpret_cast<const uint8_t*>(data), std::min(size, room));
}
