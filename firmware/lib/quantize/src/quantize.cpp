#include "quantize/quantize.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace hil {
namespace {

template <typename Code>
Code Convert(float value, const QuantParams& params) {
  constexpr int32_t kLowest = std::numeric_limits<Code>::min();
  constexpr int32_t kHighest = std::numeric_limits<Code>::max();
  // std::round rounds halves away from zero. Beyond twice the range the zero point cannot bring the result back into it, and the
  // conversion to int32_t would be undefined: saturate first.
  constexpr float kBeyond = 2.0f * (kHighest + 1);
  const float ratio = value / params.scale;
  if (ratio >= kBeyond) return kHighest;
  if (ratio <= -kBeyond) return kLowest;
  const int32_t shifted = static_cast<int32_t>(std::round(ratio)) + params.zero_point;
  if (shifted > kHighest) return kHighest;
  if (shifted < kLowest) return kLowest;
  return static_cast<Code>(shifted);
}

float Value(int32_t code, const QuantParams& params) {
  const int32_t difference = code - params.zero_point;
  return static_cast<float>(static_cast<double>(params.scale) * difference);
}

}  // namespace

int8_t Quantize(float value, const QuantParams& params) { return Convert<int8_t>(value, params); }

float Dequantize(int8_t value, const QuantParams& params) { return Value(value, params); }

void QuantizeWide(const ArrayView<float>& values, const QuantParams& params, int8_t* raw) {
  if (params.type == ElementType::kFloat32) {
    if (values.size() != 0) std::memcpy(raw, values.bytes(), values.byte_size());
    return;
  }
  for (uint32_t i = 0; i < values.size(); ++i) {
    const auto code = Convert<int16_t>(values[i], params);
    std::memcpy(raw + sizeof code * i, &code, sizeof code);
  }
}

void DequantizeWide(const int8_t* raw, uint32_t count, const QuantParams& params, float* values) {
  if (params.type == ElementType::kFloat32) {
    if (count != 0) std::memcpy(values, raw, count * sizeof(float));
    return;
  }
  for (uint32_t i = 0; i < count; ++i) {
    int16_t code = 0;
    std::memcpy(&code, raw + sizeof code * i, sizeof code);
    values[i] = Value(code, params);
  }
}

}  // namespace hil
