// The inner loop of FULLY_CONNECTED. One of dense_rows_*.cpp implements it, depending on the processor.
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
#elif defined(__ARM_ARCH_6M__)
#define HIL_DENSE_ROWS_M0 1
#else
#define HIL_DENSE_ROWS_PORTABLE 1
#endif

// Inlined even with -Os: most of the inference time is spent here.
#define HIL_ALWAYS_INLINE __attribute__((always_inline))

namespace hil::int8 {

constexpr uint32_t kMinColumnsOfFastPath = 4;
constexpr uint32_t kMinRowsOfFastPath = 2;

#if defined(HIL_DENSE_ROWS_M0)
constexpr bool kDenseRowsClamps = true;
#else
constexpr bool kDenseRowsClamps = false;
#endif

/// All rows of a layer that `fits`, saturated to int8, and clamped to its activation if kDenseRowsClamps. `scratch`:
/// ScratchBytes() bytes.
void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, int16_t* scratch, int8_t* output);

HIL_ALWAYS_INLINE inline int32_t LoadInt32(const uint8_t* bytes) {
  int32_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

HIL_ALWAYS_INLINE inline int8_t SaturateToInt8(int32_t value) {
  if (value > INT8_MAX) return INT8_MAX;
  return static_cast<int8_t>(value < INT8_MIN ? INT8_MIN : value);
}

/// Half of `value`, rounded down, saturated to int8.
HIL_ALWAYS_INLINE inline int8_t HalfSaturatedToInt8(int32_t value) {
#if defined(HIL_CORTEX_M_DSP)
  int32_t result;
  __asm__("ssat %0, #8, %1, asr #1" : "=r"(result) : "r"(value));
  return static_cast<int8_t>(result);
#else
  return SaturateToInt8(value >> 1);
#endif
}

/// (2 * accumulator * fraction) / 2^32 rounded half up, which is MultiplyHigh() where the accumulator is below 2^30.
HIL_ALWAYS_INLINE inline int32_t MultiplyHighFast(int32_t accumulator, int32_t fraction) {
#if defined(HIL_CORTEX_M_DSP)
  int32_t product;
  __asm__("smmulr %0, %1, %2" : "=r"(product) : "r"(accumulator * 2), "r"(fraction));
  return product;
#elif defined(HIL_DENSE_ROWS_M0)
  // By four products of 16 bits. With the accumulator's lower half signed, the middle sum stays within 32 bits, and its last bits
  // are all that rounding down loses.
  const int32_t low = static_cast<int16_t>(accumulator);
  const int32_t high = (accumulator - low) >> 16;
  const int32_t fraction_low = static_cast<uint16_t>(fraction);
  const int32_t fraction_high = fraction >> 16;
  const int32_t middle = low * fraction_high + high * fraction_low + (low * fraction_low >> 16) + (1 << 14);
  return high * fraction_high * 2 + (middle >> 15);
#else
  return static_cast<int32_t>((static_cast<int64_t>(accumulator * 2) * fraction + (int64_t{1} << 31)) >> 32);
#endif
}

/// Requantized accumulator plus zero point. Rounding half away from zero as: subtract one from negative numbers, shift by all but
/// one bit, add one and the doubled zero point, shift by the last bit.
HIL_ALWAYS_INLINE inline int8_t FinishRow(int32_t accumulator, int32_t fraction, int32_t shift, int32_t one_and_zero_point) {
  const int32_t product = MultiplyHighFast(accumulator, fraction);
  return HalfSaturatedToInt8(((product + (product >> 31)) >> shift) + one_and_zero_point);
}

/// Sums of two neighboring rows.
struct PairOfSums {
  int32_t a;
  int32_t b;
};

/// Processes a layer in pairs of rows, which share the loads of the input. `add(a, b, sums)` returns the sums
/// with the products of the rows that start at `a` and `b` added.
template <typename Add>
HIL_ALWAYS_INLINE inline void ForEachPairOfRows(const FullyConnectedLayer& layer_in_memory, int8_t* output, const Add& add) {
  const FullyConnectedLayer layer = layer_in_memory;  // a copy, because int8 stores may alias the original
  const int32_t one_and_zero_point = 1 + 2 * layer.output_zero_point;
  const int8_t* weights = layer.weights;
  const uint8_t* bias = layer.bias;
  const int32_t* fractions = layer.fractions;
  const int8_t* shifts = layer.shifts;
  for (uint32_t left = layer.rows;;) {
    const PairOfSums sums = add(weights, weights + layer.columns, PairOfSums{LoadInt32(bias), LoadInt32(bias + 4)});
    output[0] = FinishRow(sums.a, fractions[0], shifts[0], one_and_zero_point);
    output[1] = FinishRow(sums.b, fractions[1], shifts[1], one_and_zero_point);
    if (left == 2) return;
    const uint32_t step = left == 3 ? 1 : 2;  // with an odd number of rows, the last pair repeats one
    left -= step;
    weights += step * layer.columns;
    bias += step * 4;
    fractions += step;
    shifts += step;
    output += step;
  }
}

}  // namespace hil::int8
