// The inner loop of FULLY_CONNECTED. One of dense_rows_*.cpp implements it, by what the processor has.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine_int8/fully_connected.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_ARCH_PROFILE) && (__ARM_ARCH_PROFILE == 'M')
#define HIL_CORTEX_M_DSP 1
#endif

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define HIL_DENSE_ROWS_MVE 1
#elif defined(HIL_CORTEX_M_DSP)
#define HIL_DENSE_ROWS_DSP 1
#else
#define HIL_DENSE_ROWS_PORTABLE 1
#endif

namespace hil::int8 {

constexpr uint32_t kMinColumnsOfFastPath = 4;

/// All rows of a layer that `fits`, saturated to int8 and not yet clamped to its activation. `scratch`: ScratchBytes() bytes.
void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, int16_t* scratch, int8_t* output);

inline int32_t BiasOf(const FullyConnectedLayer& layer, uint32_t row) {
  if (layer.bias == nullptr) {
    return 0;
  }
  int32_t bias = 0;
  std::memcpy(&bias, layer.bias + 4 * row, sizeof bias);
  return bias;
}

inline int8_t SaturateToInt8(int32_t value) {
  if (value > INT8_MAX) {
    return INT8_MAX;
  }
  return static_cast<int8_t>(value < INT8_MIN ? INT8_MIN : value);
}

/// (2 * accumulator * fraction) / 2^32 rounded half up, which is MultiplyHigh() where the accumulator is below 2^30.
inline int32_t MultiplyHighFast(int32_t accumulator, int32_t fraction) {
#if defined(HIL_CORTEX_M_DSP)
  int32_t product;
  __asm__("smmulr %0, %1, %2" : "=r"(product) : "r"(accumulator * 2), "r"(fraction));
  return product;
#else
  return static_cast<int32_t>((static_cast<int64_t>(accumulator * 2) * fraction + (int64_t{1} << 31)) >> 32);
#endif
}

/// Requantised accumulator plus zero point. Rounding half away from zero as: subtract one from negative numbers, shift by all but
/// one bit, add one, shift by the last bit; the zero point, doubled, goes with the one.
inline int8_t FinishRow(const FullyConnectedLayer& layer, uint32_t row, int32_t accumulator, int32_t one_and_zero_point) {
  const int32_t product = MultiplyHighFast(accumulator, layer.fractions[row]);
  const int32_t shifted = (product + (product >> 31)) >> layer.shifts[row];
  return SaturateToInt8((shifted + one_and_zero_point) >> 1);
}

}  // namespace hil::int8
