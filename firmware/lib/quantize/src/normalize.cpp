#include "quantize/normalize.h"

#include <cfloat>
#include <cmath>

#ifdef __FAST_MATH__
#error "-ffast-math changes the bits of normalized observations: build without it"
#endif

namespace hil {

static_assert(FLT_EVAL_METHOD == 0, "float expressions must be computed in float32");

bool Normalization::valid() const {
  if (none()) return true;
  if (mean.size() != inverse_std.size() || !std::isfinite(clip) || clip <= 0.0f) return false;
  for (uint32_t i = 0; i < mean.size(); ++i) {
    if (!std::isfinite(mean[i]) || !std::isfinite(inverse_std[i]) || inverse_std[i] <= 0.0f) return false;
  }
  return true;
}

float Normalize(float value, float mean, float inverse_std, float clip) {
  const float scaled = (value - mean) * inverse_std;
  return scaled > clip ? clip : scaled < -clip ? -clip : scaled;
}

}  // namespace hil
