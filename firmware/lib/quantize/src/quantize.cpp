#include "quantize/quantize.h"

#include <cmath>

namespace hil {

int8_t Quantize(float value, const QuantParams& params) {
  // std::round rounds halves away from zero. Beyond +-256 the zero point cannot bring the result back into range, and the
  // conversion to int32_t would be undefined: saturate first.
  const float ratio = value / params.scale;
  if (ratio >= 256.0f) return INT8_MAX;
  if (ratio <= -256.0f) return INT8_MIN;
  const int32_t shifted = static_cast<int32_t>(std::round(ratio)) + params.zero_point;
  if (shifted > INT8_MAX) return INT8_MAX;
  if (shifted < INT8_MIN) return INT8_MIN;
  return static_cast<int8_t>(shifted);
}

float Dequantize(int8_t value, const QuantParams& params) {
  const int32_t difference = static_cast<int32_t>(value) - params.zero_point;
  return static_cast<float>(static_cast<double>(params.scale) * difference);
}

}  // namespace hil
