// A policy on a robot with its own sensors and motors. Copy model.h and signals.h from the bundle to include/.
//
//   -DROBOT_MODE=0  shadow: the policy runs, the motors stay off (default)
//   -DROBOT_MODE=1  motor check: one output of the policy after the other is a little positive, then negative; the policy does
//                   not run
//   -DROBOT_MODE=2  standalone: the policy drives
//
// In each mode the robot prints a line per control period, which `hil watch` reads:
//
//   time in us, inference in us, inputs of the policy..., outputs of the policy...*checksum
//
// and, once a second and at a change, a line "# robot MODEL MODE STATE". What has stopped the motors holds until a reset.

#include <atomic>
#include <cstdio>

#include "engine_int8/flashed_kernels.h"
#include "engine_int8/int8_engine.h"
#include "policy/flashed_model.h"
#include "robot.h"
#include "server/text_line.h"

#ifndef ROBOT_MODE
#define ROBOT_MODE 0
#endif

namespace {

constexpr bool SameText(const char* a, const char* b) {
  for (; *a != '\0' && *a == *b; ++a, ++b) {
  }
  return *a == *b;
}
static_assert(SameText(hil_signals::kModelId, hil_model::kModelId), "model.h and signals.h are of different bundles");

constexpr const char* kModes[] = {"shadow", "motors", "standalone"};
constexpr uint32_t kPeriodUs = hil_signals::kControlPeriodUs;
constexpr uint32_t kPeriodsPerStatus = 1'000'000 / kPeriodUs;
constexpr uint32_t kWatchdogMs = 4 * kPeriodUs / 1000;
constexpr float kTestOutput = 0.05f;                    // of the motor check
constexpr uint32_t kTestPeriods = 500'000 / kPeriodUs;  // in each direction
constexpr size_t kMaxHead = 96;                         // of a line: its two times, or all of a status

/// Trips when the loop has not fed it for kWatchdogMs. Loads and stores of a word only, which every Cortex-M has.
class LoopWatchdog {
 public:
  void Feed() { age_ms_.store(0); }

  bool OnMillisecond() {
    const uint32_t age_ms = age_ms_.load() + 1;  // nothing interrupts the interrupt
    age_ms_.store(age_ms);
    return age_ms >= kWatchdogMs;
  }

 private:
  std::atomic<uint32_t> age_ms_{0};
};

class BoardClock final : public hil::hal::Clock {
 public:
  uint64_t NowUs() const override { return robot::NowUs(); }  // for differences only
};

/// Lines on their way to the host. While they are, further lines are dropped: a host that does not read must not delay the loop.
class Output {
 public:
  bool idle() const { return sent_ == size_; }
  void Clear() { size_ = sent_ = 0; }
  char* end() { return text_ + size_; }

  /// A line of `size` characters was written to end().
  void Add(size_t size) {
    size_ += size;
    text_[size_++] = '\n';
  }
  void Continue() { sent_ += robot::Send(text_ + sent_, size_ - sent_); }

 private:
  static constexpr size_t kNumbers = hil_signals::kObservations + hil_signals::kActions;
  char text_[2 * kMaxHead + kNumbers * (hil::kMaxNumberText + 1) + 4] = {};
  size_t size_ = 0;
  size_t sent_ = 0;
};

alignas(16) uint8_t arena[8 * 1024];
BoardClock board_clock;
hil::Int8Engine engine(hil::FlashedKernels());
hil::Policy policy(&engine, &board_clock);
LoopWatchdog watchdog;
Output output;
std::atomic<const char*> state{"starting"};  // kRunning, or why the motors are off
constexpr const char* kRunning = "running";

void Stop(const char* why) {
  robot::SafeState();
  if (state.load() == kRunning) state.store(why);
}

void PrintStatus() {
  const char* now = state.load();
  const int size = std::snprintf(output.end(), kMaxHead, "# robot %s %s %s", hil_model::kModelId, kModes[ROBOT_MODE], now);
  output.Add(static_cast<size_t>(size));
}

void PrintNumbers(uint32_t now_us, const float* inputs, const float* outputs) {
  char* at = output.end();
  at += std::snprintf(at, kMaxHead, "%lu,%lu", static_cast<unsigned long>(now_us),
                      static_cast<unsigned long>(policy.times().last_us));
  for (size_t i = 0; i < hil_signals::kObservations + hil_signals::kActions; ++i) {
    *at++ = ',';
    at += hil::FormatFloat(i < hil_signals::kObservations ? inputs[i] : outputs[i - hil_signals::kObservations], at);
  }
  output.Add(hil::AddChecksum(output.end(), static_cast<size_t>(at - output.end())));
}

/// Outputs of the motor check in a control period, in place of the policy's.
const float* TestOutputs(uint32_t period) {
  static float outputs[hil_signals::kActions];
  for (float& value : outputs) value = 0.0f;
  const uint32_t phase = period / kTestPeriods % (2 * hil_signals::kActions);
  outputs[phase / 2] = phase % 2 == 0 ? kTestOutput : -kTestOutput;
  return outputs;
}

}  // namespace

void robot::OnMillisecond() {
  if (watchdog.OnMillisecond()) Stop("late");
}

void setup() {
  robot::SafeState();
  const hil::Outcome loaded = policy.Load(hil::FlashedModel(), {arena, sizeof arena});
  state.store(loaded.ok() ? kRunning : hil::StatusName(loaded.status));
}

void loop() {
  static uint32_t period = 0;
  hil_signals::Observation physical{};
  float inputs[hil_signals::kObservations];
  const bool measured = robot::ReadObservation(&physical);
  const uint32_t now_us = robot::NowUs();
  hil_signals::ToPolicy(physical, inputs);
  const hil::Outcome inferred = policy.Run({inputs, hil_signals::kObservations});
  const float* outputs = ROBOT_MODE == 1 ? TestOutputs(period) : policy.action();
  if (ROBOT_MODE == 0 && measured && inferred.ok()) state.store(kRunning);  // nothing was driven: it may go on
  if (!measured) Stop("sensor_or_fall");
  if (!inferred.ok()) Stop(hil::StatusName(inferred.status));
  watchdog.Feed();
  if (ROBOT_MODE != 0 && state.load() == kRunning) robot::Apply(hil_signals::FromPolicy(outputs));
  if (state.load() != kRunning) robot::SafeState();  // also if an interrupt has stopped them meanwhile
  output.Continue();
  if (output.idle()) {
    static const char* printed = nullptr;
    output.Clear();
    if (measured && inferred.ok()) PrintNumbers(now_us, inputs, outputs);
    if (state.load() != printed || period % kPeriodsPerStatus == 0) PrintStatus();
    printed = state.load();
    output.Continue();
  }
  ++period;
}
