// A balance robot behind the Arduino API: MPU-6050, encoders, motor driver and timer, wired as in docs/bench-to-robot.md, on the
// plant of examples/robot. Time is the plant's. What the sketch sends goes to stdout; at the end stderr has
// the robot's state: PITCH_RAD STANDBY.
//
//   program SECONDS free        held upright for 2.5 s, then let go
//   program SECONDS unplugged   the same, and from 5 s on the sensor does not answer
//   program SECONDS deaf        the same, and the port never has room
//   program SECONDS hand        a hand does what `hil watch --polarity` asks for, a movement a second from 2.5 s on
//   program SECONDS stand       the wheels are in the air

#include <Arduino.h>
#include <Wire.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "plant.h"

namespace {

constexpr uint32_t kStepUs = 250;
constexpr uint32_t kCallUs = 5;  // of a call of micros()
constexpr uint32_t kByteUs = 23;
constexpr double kReleaseUs = 2.5e6, kUnplugUs = 5e6;
constexpr float kStallNm = 0.3f, kNoLoadRadS = 90.0f, kCountsPerRad = 1320.0f / 6.2831853f;
constexpr float kFreeKgM2 = 0.000124f;
constexpr uint8_t kEncoderA[2] = {2, 4}, kEncoderB[2] = {3, 5}, kForward[2] = {6, 9}, kBackward[2] = {7, 10}, kDuty[2] = {8, 11};
constexpr uint8_t kStandby = 12;
constexpr size_t kPinCount = 16;

robot::Plant plant;
const char* scenario = "";
uint64_t now_us = 0, plant_us = 0;
bool inside_interrupt = false;
uint8_t levels[kPinCount] = {};
int duties[kPinCount] = {};
void (*on_edge[kPinCount])() = {};
void (*on_timer)() = nullptr;
uint64_t timer_us = 0;
float angle_rad[2] = {};
long counts[2] = {};

bool Is(const char* name) { return std::strcmp(scenario, name) == 0; }

float Torque(int side, float speed_rad_s) {
  if (levels[kStandby] == LOW) return 0.0f;
  const int direction = levels[kForward[side]] - levels[kBackward[side]];
  const float duty = static_cast<float>(direction * duties[kDuty[side]]) / 255.0f;
  return kStallNm * (duty - speed_rad_s / kNoLoadRadS);
}

void Interrupt(void (*function)()) {
  inside_interrupt = true;
  function();
  inside_interrupt = false;
}

/// Turns a wheel, and calls the interrupts of the edges at the times at which they come.
void Turn(int side, float speed_rad_s) {
  const float from = angle_rad[side] * kCountsPerRad;
  angle_rad[side] += speed_rad_s * 1e-6f * kStepUs;
  const float to = angle_rad[side] * kCountsPerRad;
  const uint64_t end_us = now_us;
  while (counts[side] != std::lround(std::floor(to))) {
    const long step = to > from ? 1 : -1;
    const float edge = static_cast<float>(step > 0 ? counts[side] + 1 : counts[side]);
    now_us = end_us - kStepUs + static_cast<uint64_t>(kStepUs * (edge - from) / (to - from));
    counts[side] += step;
    const long phase = ((counts[side] % 4) + 4) % 4;  // forward: B leads A, as the table of the sketch counts upward
    const uint8_t pin_a = kEncoderA[side], pin_b = kEncoderB[side];
    const auto a = static_cast<uint8_t>(phase >= 2), b = static_cast<uint8_t>(phase == 1 || phase == 2);
    const uint8_t changed = levels[pin_a] != a ? pin_a : pin_b;
    levels[pin_a] = a;
    levels[pin_b] = b;
    if (on_edge[changed] != nullptr) Interrupt(on_edge[changed]);
  }
  now_us = end_us;
}

void StepPlant() {
  const auto t_us = static_cast<double>(plant_us);
  const float left_nm = Torque(0, plant.left_rad_s), right_nm = Torque(1, plant.right_rad_s);
  if (Is("hand")) {
    constexpr float kTurnRadS = 12.0f;
    const int second = t_us < kReleaseUs ? -1 : static_cast<int>((t_us - kReleaseUs) / 1e6);
    const int movement = std::fmod(t_us - kReleaseUs, 1e6) < 3e5 ? second : -1;
    plant.pitch_rate_rad_s = movement == 0 || movement == 1 ? 0.6f : 0.0f;
    plant.pitch_rad += plant.pitch_rate_rad_s * robot::Plant::kStepS;
    plant.left_rad_s = movement == 2 || movement == 5 ? kTurnRadS : movement == 4 ? -kTurnRadS : 0.0f;
    plant.right_rad_s = movement == 3 ? kTurnRadS : movement == 4 ? -kTurnRadS : 0.0f;
  } else if (Is("stand")) {
    plant.left_rad_s += left_nm / kFreeKgM2 * robot::Plant::kStepS;
    plant.right_rad_s += right_nm / kFreeKgM2 * robot::Plant::kStepS;
  } else if (t_us >= kReleaseUs) {
    plant.Step(left_nm, right_nm);
  }
  Turn(0, plant.left_rad_s);
  Turn(1, plant.right_rad_s);
}

void Advance(uint64_t duration_us) {
  for (const uint64_t until_us = now_us + duration_us; now_us < until_us;) {
    const uint64_t next_us = plant_us + kStepUs;
    if (next_us > until_us) {
      now_us = until_us;
      return;
    }
    now_us = plant_us = next_us;
    StepPlant();
    if (on_timer != nullptr && now_us >= timer_us) {
      timer_us += 1000;
      Interrupt(on_timer);
    }
  }
}

uint8_t selected = 0;
uint8_t registers[128] = {};
bool register_chosen = false;

bool Answers() { return !(Is("unplugged") && static_cast<double>(now_us) >= kUnplugUs); }

void Put(uint8_t at, float value) {
  const auto word = static_cast<int16_t>(std::lround(value));
  registers[at] = static_cast<uint8_t>(word >> 8);
  registers[at + 1] = static_cast<uint8_t>(word);
}

/// The values as the chip has them in the ranges that the sketch has set: 8,192 counts per g, 65.5 per degree/s.
void Measure() {
  constexpr float kCountsPerG = 8192.0f, kCountsPerRadS = 65.5f / 0.01745329f, kRestRadS = 0.02f;
  const float s = std::sin(plant.pitch_rad), c = std::cos(plant.pitch_rad);
  const float axle_g = plant.axle_m_s2 / robot::Plant::kGravity;
  Put(0x3B, kCountsPerG * (-s + axle_g * c));
  Put(0x3F, kCountsPerG * (c + axle_g * s));
  Put(0x45, kCountsPerRadS * (plant.pitch_rate_rad_s + kRestRadS));
}

}  // namespace

FdSerial Serial;
TwoWire Wire;

int FdSerial::available() { return 0; }
int FdSerial::read() { return -1; }
int FdSerial::availableForWrite() { return Is("deaf") ? 0 : 100; }  // less than a line
size_t FdSerial::write(const uint8_t* data, size_t size) {
  if (size > static_cast<size_t>(availableForWrite())) Advance(100'000);  // waits for room, as cores do
  return std::fwrite(data, 1, size, stdout);
}

void TwoWire::beginTransmission(uint8_t) { register_chosen = false; }
size_t TwoWire::write(uint8_t value) {
  if (register_chosen) {
    registers[selected++] = value;
  } else {
    selected = value & 127;
  }
  register_chosen = true;
  return 1;
}
uint8_t TwoWire::endTransmission(bool) {
  Advance(2 * kByteUs);
  return Answers() ? 0 : 2;
}
uint8_t TwoWire::requestFrom(uint8_t, uint8_t count) {
  Advance(kByteUs * (1u + count));
  Measure();
  registers[0x75] = 0x68;
  const bool ready = registers[0x6B] == 0x01 && registers[0x1B] == 0x08 && registers[0x1C] == 0x08;
  return Answers() && (ready || selected == 0x75) ? count : 0;
}
int TwoWire::read() { return registers[selected++ & 127]; }

unsigned long micros() {
  if (!inside_interrupt) Advance(kCallUs);
  return static_cast<uint32_t>(now_us);
}
void delay(unsigned long ms) { Advance(1000 * ms); }
void yield() {}
void noInterrupts() {}
void interrupts() {}
void pinMode(uint8_t, uint8_t) {}
void digitalWrite(uint8_t pin, uint8_t value) { levels[pin] = value; }
void analogWrite(uint8_t pin, int value) { duties[pin] = value; }
int digitalRead(uint8_t pin) { return levels[pin]; }
void attachInterrupt(uint8_t number, void (*function)(), uint8_t) { on_edge[number] = function; }

bool IntervalTimer::begin(void (*function)(), unsigned long) {
  on_timer = function;
  timer_us = now_us;
  return true;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto end_us = static_cast<uint64_t>(1e6 * std::atof(argv[1]));
  scenario = argv[2];
  plant.pitch_rad = Is("hand") ? 0.0f : 0.05f;
  setup();
  while (now_us < end_us) loop();
  std::fprintf(stderr, "%g %d\n", static_cast<double>(plant.pitch_rad), levels[kStandby]);
}
