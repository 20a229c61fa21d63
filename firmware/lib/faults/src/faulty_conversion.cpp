#include "faults/faulty_conversion.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace hil::faults {
namespace {

constexpr double kSafe = 2.0e9;  // a cast to int is defined below this

float SwapBytes(float value) {
  uint8_t bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));
  std::reverse(bytes, bytes + sizeof(bytes));
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

float RoundToFourDecimals(float scale) { return static_cast<float>(std::round(static_cast<double>(scale) * 1e4) / 1e4); }

int8_t Saturate(double rounded, int32_t zero_point) {
  return static_cast<int8_t>(std::clamp(rounded + zero_point, -128.0, 127.0));
}

float Scaled(float scale, int32_t steps) { return static_cast<float>(static_cast<double>(scale) * steps); }

int8_t Wrap(double rounded, int32_t zero_point) {
  const auto integer = static_cast<int64_t>(std::clamp(rounded + zero_point, -kSafe, kSafe));
  return static_cast<int8_t>(static_cast<uint8_t>(integer & 0xff));
}

}  // namespace

void FaultyConversion::ToCodes(const ArrayView<float>& values, const QuantParams& params, int8_t* codes) {
  const uint32_t count = values.size();
  float taken[kFrameObs];
  for (uint32_t i = 0; i < count; ++i) taken[i] = values[i];
  if (fault_ == Fault::kInputPermuted && count > 1) std::swap(taken[0], taken[1]);
  if (fault_ == Fault::kInputStale) {
    if (!has_previous_) std::copy(taken, taken + count, previous_);
    has_previous_ = true;
    std::swap_ranges(taken, taken + count, previous_);
  }
  for (uint32_t i = 0; i < count; ++i) codes[i] = ToCode(taken[i], params);
}

int8_t FaultyConversion::ToCode(float value, const QuantParams& params) const {
  const float ratio = value / params.scale;
  const int32_t zero_point = params.zero_point;
  switch (fault_) {
    case Fault::kInputTruncate:
      return Saturate(std::trunc(ratio), zero_point);
    case Fault::kInputTruncateSum:
      return Saturate(std::trunc(ratio + static_cast<float>(zero_point)), 0);
    case Fault::kInputFloor:
      return Saturate(std::floor(ratio), zero_point);
    case Fault::kInputCastHalfUp:
      return Saturate(std::trunc(ratio + 0.5f), zero_point);
    case Fault::kInputHalfUp:
      return Saturate(std::floor(ratio + 0.5f), zero_point);
    case Fault::kInputHalfEven:
      return Saturate(std::nearbyint(ratio), zero_point);
    case Fault::kInputReciprocal:
      return Saturate(std::round(value * (1.0f / params.scale)), zero_point);
    case Fault::kInputFloat64:
      return Saturate(std::round(static_cast<double>(value) / static_cast<double>(params.scale)), zero_point);
    case Fault::kInputWrap:
      return Wrap(std::round(ratio), zero_point);
    case Fault::kInputNoZeroPoint:
      return Quantize(value, {params.scale, 0});
    case Fault::kInputZeroPointAbove:
      return Saturate(std::round(ratio), zero_point + 1);
    case Fault::kInputZeroPointBelow:
      return Saturate(std::round(ratio), zero_point - 1);
    case Fault::kInputScaleDigits:
      return Quantize(value, {RoundToFourDecimals(params.scale), params.zero_point});
    case Fault::kInputOutputScale:
      return Quantize(value, engine_->info().output);
    case Fault::kInputSwappedBytes: {
      const float swapped = SwapBytes(value);
      return Quantize(std::isfinite(swapped) ? swapped : 0.0f, params);
    }
    default:
      return Quantize(value, params);
  }
}

void FaultyConversion::ToValues(const ArrayView<int8_t>& codes, const QuantParams& params, float* values) {
  for (uint32_t i = 0; i < codes.size(); ++i) values[i] = ToValue(codes[i], params);
}

float FaultyConversion::ToValue(int8_t code, const QuantParams& params) const {
  switch (fault_) {
    case Fault::kOutputNoZeroPoint:
      return Dequantize(code, {params.scale, 0});
    case Fault::kOutputZeroPointAbove:
      return Scaled(params.scale, code - (params.zero_point + 1));
    case Fault::kOutputZeroPointBelow:
      return Scaled(params.scale, code - (params.zero_point - 1));
    case Fault::kOutputScaleDigits:
      return Dequantize(code, {RoundToFourDecimals(params.scale), params.zero_point});
    case Fault::kOutputUnsigned:
      return Scaled(params.scale, static_cast<uint8_t>(code) - params.zero_point);
    case Fault::kOutputRaw127:
      return static_cast<float>(code) / 127.0f;
    case Fault::kOutputSwappedBytes:
      return SwapBytes(Dequantize(code, params));
    default:
      return Dequantize(code, params);
  }
}

}  // namespace hil::faults
