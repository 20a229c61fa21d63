// The robot of balance/Balance-v0 as a small model of its own: an inverted pendulum on two wheels that roll without slip.
#pragma once

#include <algorithm>
#include <cmath>

namespace robot {

class Plant {
 public:
  static constexpr float kStepS = 0.00025f;
  static constexpr float kTorqueLimitNm = 0.3f;  ///< of a motor
  static constexpr float kGravity = 9.81f;

  float pitch_rad = 0.1f, pitch_rate_rad_s = 0.0f;  ///< forward is positive
  float left_rad_s = 0.0f, right_rad_s = 0.0f;      ///< of the wheels against the body, as encoders measure it
  float axle_m_s2 = 0.0f;                           ///< acceleration of the axle in the latest step

  /// Advances by kStepS under torques of the motors, in Nm.
  void Step(float left_nm, float right_nm) {
    left_nm = std::clamp(left_nm, -kTorqueLimitNm, kTorqueLimitNm) - kDampingNmPerRadS * left_rad_s;
    right_nm = std::clamp(right_nm, -kTorqueLimitNm, kTorqueLimitNm) - kDampingNmPerRadS * right_rad_s;
    const float torque = left_nm + right_nm;
    const float s = std::sin(pitch_rad), c = std::cos(pitch_rad);
    // (a b; b d) * (acceleration of the axle; of the pitch) = (e; f)
    const float a = kBodyKg + 2 * (kWheelKg + kWheelKgM2 / (kRadiusM * kRadiusM));
    const float b = kBodyKg * kComM * c;
    const float d = kBodyKgM2 + kBodyKg * kComM * kComM;
    const float e = torque / kRadiusM + kBodyKg * kComM * s * pitch_rate_rad_s * pitch_rate_rad_s;
    const float f = kBodyKg * kGravity * kComM * s - torque;
    axle_m_s2 = (e * d - b * f) / (a * d - b * b);
    const float pitch_rad_s2 = (a * f - b * e) / (a * d - b * b);
    const float turn_rad_s2 = kHalfTrackM * kHalfTrackM / (kRadiusM * kRadiusM * kYawKgM2) * (right_nm - left_nm);
    left_rad_s += kStepS * (axle_m_s2 / kRadiusM - pitch_rad_s2 - turn_rad_s2);
    right_rad_s += kStepS * (axle_m_s2 / kRadiusM - pitch_rad_s2 + turn_rad_s2);
    pitch_rate_rad_s += kStepS * pitch_rad_s2;
    pitch_rad += kStepS * pitch_rate_rad_s;
    if (std::abs(pitch_rad) > kFloorRad) pitch_rate_rad_s = 0.0f;
    pitch_rad = std::clamp(pitch_rad, -kFloorRad, kFloorRad);
  }

 private:
  static constexpr float kBodyKg = 0.56f, kComM = 0.055f, kBodyKgM2 = 0.0014f, kYawKgM2 = 0.0015f;
  static constexpr float kWheelKg = 0.04f, kWheelKgM2 = 0.000124f;  // rotor of the motor included
  static constexpr float kRadiusM = 0.034f, kHalfTrackM = 0.082f, kFloorRad = 1.5f;
  static constexpr float kDampingNmPerRadS = 0.0005f;
};

}  // namespace robot
