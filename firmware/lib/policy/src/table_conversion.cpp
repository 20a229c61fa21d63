#include "policy/table_conversion.h"

#include <cstring>

namespace hil {

namespace {

constexpr int32_t kLargest = 0x7F7FFFFF;  // bits of the largest float

/// An integer with the order of the finite floats.
int32_t Key(float value) {
  int32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits < 0 ? bits ^ INT32_MAX : bits;
}

float ValueOf(int32_t key) {
  const int32_t bits = key < 0 ? key ^ INT32_MAX : key;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// The least key whose value is quantized to at least `code`. Quantize() never falls: found by doubling steps from a guess that
/// is wrong by a few units at most, then by halving.
int32_t Threshold(int32_t code, const QuantParams& params) {
  const auto reached = [&](int32_t key) { return Quantize(ValueOf(key), params) >= code; };
  const auto limited = [](int64_t key) {
    return static_cast<int32_t>(key > kLargest ? kLargest : key < ~int64_t{kLargest} ? ~int64_t{kLargest} : key);
  };
  const float guess = params.scale * (static_cast<float>(code - params.zero_point) - 0.5F);
  int64_t step = 1;
  int32_t high = limited(Key(guess));
  while (!reached(high) && high < kLargest) {
    high = limited(high + step);
    step *= 2;
  }
  step = 1;
  int32_t low = limited(int64_t{high} - 1);
  while (reached(low) && low > ~kLargest) {
    high = low;
    low = limited(low - step);
    step *= 2;
  }
  while (int64_t{high} - low > 1) {
    const int32_t middle = static_cast<int32_t>((int64_t{high} + low) >> 1);
    (reached(middle) ? high : low) = middle;
  }
  return reached(high) ? high : INT32_MAX;
}

}  // namespace

void TableConversion::Prepare(const QuantParams& input, const QuantParams& output) {
  if (kWide && input.type != ElementType::kInt8) return;
  for (int i = 0; i < kCodes - 1; ++i) thresholds_[i] = Threshold(INT8_MIN + 1 + i, input);
  for (int i = 0; i < kCodes; ++i) values_[i] = Dequantize(static_cast<int8_t>(INT8_MIN + i), output);
}

void TableConversion::ToCodes(const ArrayView<float>& values, const QuantParams& params, int8_t* codes) {
  if (kWide && params.type != ElementType::kInt8) return QuantizeWide(values, params, codes);
  for (uint32_t i = 0; i < values.size(); ++i) {
    const int32_t key = Key(values[i]);
    const int32_t* at = thresholds_;
    for (int half = kCodes / 2; half > 0; half /= 2) {
      if (at[half - 1] <= key) at += half;
    }
    codes[i] = static_cast<int8_t>(INT8_MIN + (at - thresholds_));
  }
}

void TableConversion::ToValues(const ArrayView<int8_t>& codes, const QuantParams& params, float* values) {
  if (kWide && params.type != ElementType::kInt8) return exact_conversion.ToValues(codes, params, values);
  for (uint32_t i = 0; i < codes.size(); ++i) values[i] = values_[codes[i] - INT8_MIN];
}

}  // namespace hil
