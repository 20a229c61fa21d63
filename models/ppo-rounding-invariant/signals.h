// Written by `hil export`: what the numbers of the policy mean. Do not edit.
//
// A member's name has the signal's unit: code for another signal or unit does not compile.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil_signals {

constexpr char kModelId[] = "e63bbe6d71b0";  ///< of the model.h that this belongs to
constexpr std::uint32_t kControlPeriodUs = 5000;
constexpr std::size_t kObservations = 6;
constexpr std::size_t kActions = 2;  ///< outputs of the policy

/// What the policy reads, in physical units.
struct Observation {
  float pitch_rad;  ///< positive: tilt it forward; 0.35 rad is 1 for the policy
  float pitch_rate_rad_s;  ///< positive: tilt it forward, quickly; 4 rad/s is 1 for the policy
  float wheel_left_speed_rad_s;  ///< positive: turn the left wheel forward; 80 rad/s is 1 for the policy
  float wheel_right_speed_rad_s;  ///< positive: turn the right wheel forward; 80 rad/s is 1 for the policy
  float speed_error_rad_s;  ///< positive: turn both wheels backward; 60 rad/s is 1 for the policy
  float wheel_speed_difference_error_rad_s;  ///< positive: turn the left wheel forward; 40 rad/s is 1 for the policy
};

/// A value that is not a number stays one, so that the policy refuses it.
inline float Limited(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

/// Inputs of the policy, float32 [kObservations], in its order, scale and limits.
inline void ToPolicy(const Observation& physical, float* inputs) {
  inputs[0] = Limited(physical.pitch_rad / 0.35f, -1.0f, 1.0f);
  inputs[1] = Limited(physical.pitch_rate_rad_s / 4.0f, -1.0f, 1.0f);
  inputs[2] = Limited(physical.wheel_left_speed_rad_s / 80.0f, -1.0f, 1.0f);
  inputs[3] = Limited(physical.wheel_right_speed_rad_s / 80.0f, -1.0f, 1.0f);
  inputs[4] = Limited(physical.speed_error_rad_s / 60.0f, -1.0f, 1.0f);
  inputs[5] = Limited(physical.wheel_speed_difference_error_rad_s / 40.0f, -1.0f, 1.0f);
}

/// What the policy asks for, in physical units.
struct Action {
  float wheel_left_speed_step_rad_s;  ///< positive: the left wheel speeds up forward; 2 rad/s is 1 for the policy
  float wheel_right_speed_step_rad_s;  ///< positive: the right wheel speeds up forward; 2 rad/s is 1 for the policy
};

/// From outputs of the policy, float32 [kActions].
inline Action FromPolicy(const float* outputs) {
  return {
      Limited(outputs[0], -1.0f, 1.0f) * 2.0f,
      Limited(outputs[1], -1.0f, 1.0f) * 2.0f,
  };
}

}  // namespace hil_signals
