// A stand-in for a robot: numbers come in on the console, one observation a line, and actions go out there.
#pragma once

#include <cstddef>
#include <cstdio>

namespace robot {

/// Fills `observation`, float32 [n_obs], as the policy's environment gives it; waits for the next control period. False: the end.
inline bool Sense(float* observation, size_t n_obs) {
  for (size_t i = 0; i < n_obs; ++i) {
    if (std::scanf("%f", &observation[i]) != 1) return false;
  }
  return true;
}

/// Takes the policy's outputs, float32 [n_act].
inline void Drive(const float* action, size_t n_act) {
  for (size_t i = 0; i < n_act; ++i) std::printf("%.9g%c", static_cast<double>(action[i]), i + 1 < n_act ? ' ' : '\n');
}

/// An observation that is no number, or an engine that failed: no action.
inline void Stop() { std::puts("stop"); }

}  // namespace robot
