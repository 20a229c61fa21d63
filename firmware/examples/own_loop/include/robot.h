// Stand-in for a robot: reads observations from stdin, one per line, and prints actions.
#pragma once

#include <cstddef>
#include <cstdio>

namespace robot {

/// Fills `observation`, float32 [n_obs], as the policy's environment does; waits for the next control period. Returns false at
/// the end.
inline bool Sense(float* observation, size_t n_obs) {
  for (size_t i = 0; i < n_obs; ++i) {
    if (std::scanf("%f", &observation[i]) != 1) return false;
  }
  return true;
}

/// Applies the policy's outputs, float32 [n_act].
inline void Drive(const float* action, size_t n_act) {
  for (size_t i = 0; i < n_act; ++i) std::printf("%.9g%c", static_cast<double>(action[i]), i + 1 < n_act ? ' ' : '\n');
}

/// Called if an observation is not finite or the inference failed.
inline void Stop() { std::puts("stop"); }

}  // namespace robot
