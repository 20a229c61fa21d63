// What an action of balance/Balance-v0 does: it changes the commanded speed of a wheel, which stays near the measured one.
#pragma once

#include <algorithm>

namespace robot {

inline constexpr float kLeadRadS = 8.0f;    ///< of the command before the measured speed
inline constexpr float kLimitRadS = 80.0f;  ///< of the command

/// The next commanded speed; all in rad/s.
inline float NextCommand(float command, float step, float measured) {
  const float near = std::clamp(command + step, measured - kLeadRadS, measured + kLeadRadS);
  return std::clamp(near, -kLimitRadS, kLimitRadS);
}

}  // namespace robot
