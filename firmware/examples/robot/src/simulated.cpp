// The robot in memory, on Linux. Time is the model's: ten seconds take a hundredth.
//
//   program SECONDS [STALL_AT_S STALL_MS]     the loop stalls once, as if it were busy for so long

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "plant.h"
#include "robot.h"
#include "speed_command.h"

void setup();
void loop();

namespace {

constexpr float kServoNmPerRadS = 0.2f;
constexpr float kFallenRad = 0.87f;
constexpr int kStepsPerMs = 4;
static_assert(robot::Plant::kStepS * kStepsPerMs == 0.001f, "a millisecond is a number of steps");

robot::Plant plant;
bool motors_on = false;
float left_command_rad_s = 0.0f, right_command_rad_s = 0.0f;
uint32_t now_ms = 0, stall_at_ms = UINT32_MAX, stall_ms = 0;

float Servo(float command_rad_s, float speed_rad_s) { return motors_on ? kServoNmPerRadS * (command_rad_s - speed_rad_s) : 0.0f; }

void Advance(uint32_t duration_ms) {
  for (const uint32_t until_ms = now_ms + duration_ms; now_ms < until_ms; ++now_ms) {
    for (int i = 0; i < kStepsPerMs; ++i) {
      plant.Step(Servo(left_command_rad_s, plant.left_rad_s), Servo(right_command_rad_s, plant.right_rad_s));
    }
    robot::OnMillisecond();
  }
}

uint32_t Milliseconds(const char* seconds) { return static_cast<uint32_t>(1000.0 * std::atof(seconds)); }

}  // namespace

bool robot::ReadObservation(hil_signals::Observation* observation) {
  if (now_ms >= stall_at_ms) {
    stall_at_ms = UINT32_MAX;
    Advance(stall_ms);
  }
  Advance(hil_signals::kControlPeriodUs / 1000);
  observation->pitch_rad = plant.pitch_rad;
  observation->pitch_rate_rad_s = plant.pitch_rate_rad_s;
  observation->wheel_left_speed_rad_s = plant.left_rad_s;
  observation->wheel_right_speed_rad_s = plant.right_rad_s;
  observation->speed_error_rad_s = -(plant.left_rad_s + plant.right_rad_s) / 2;  // both targets are 0
  observation->wheel_speed_difference_error_rad_s = -(plant.right_rad_s - plant.left_rad_s);
  return std::abs(plant.pitch_rad) < kFallenRad;
}

void robot::Apply(const hil_signals::Action& action) {
  left_command_rad_s = NextCommand(left_command_rad_s, action.wheel_left_speed_step_rad_s, plant.left_rad_s);
  right_command_rad_s = NextCommand(right_command_rad_s, action.wheel_right_speed_step_rad_s, plant.right_rad_s);
  motors_on = true;
}

void robot::SafeState() { motors_on = false; }

uint32_t robot::NowUs() { return now_ms * 1000; }

size_t robot::Send(const char* data, size_t size) { return std::fwrite(data, 1, size, stdout); }

int main(int argc, char** argv) {
  if (argc != 2 && argc != 4) return 2;
  const uint32_t end_ms = Milliseconds(argv[1]);
  if (argc == 4) {
    stall_at_ms = Milliseconds(argv[2]);
    stall_ms = static_cast<uint32_t>(std::atoi(argv[3]));
  }
  setup();
  while (now_ms < end_ms) loop();
}
