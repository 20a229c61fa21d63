// The inner loop of FULLY_CONNECTED. One of dense_rows_*.cpp implements it, depending on the processor.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine_int8/fixed_point.h"
#include "engine_int8/fully_connected.h"

// Inlined even with -Os: most of the inference time is spent here.
#define HIL_ALWAYS_INLINE __attribute__((always_inline))

namespace hil::int8 {

constexpr uint32_t kMinColumnsOfFastPath = 4;
constexpr uint32_t kMinRowsOfFastPath = 2;

#if defined(__ARM_ARCH_6M__) || defined(HIL_DENSE_ROWS_MVE)
constexpr bool kDenseRowsClamps = true;
#else
constexpr bool kDenseRowsClamps = false;
#endif

/// All rows of a layer that `fits`, saturated to int8, and clamped to its activation if kDenseRowsClamps. `scratch`:
/// ScratchBytes() bytes.
void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, void* scratch, int8_t* output);

HIL_ALWAYS_INLINE inline int32_t LoadInt32(const uint8_t* bytes) {
  int32_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

HIL_ALWAYS_INLINE inline int8_t SaturateToInt8(int32_t value) {
  if (value > INT8_MAX) return INT8_MAX;
  return static_cast<int8_t>(value < INT8_MIN ? INT8_MIN : value);
}

/// One output of any layer, before its activation; sums wrap.
inline int8_t FinishExact(const FullyConnectedLayer& layer, uint32_t row, uint32_t sum) {
  const Multiplier multiplier = {layer.fractions[row], -1 - layer.shifts[row]};
  const uint32_t requantized = static_cast<uint32_t>(Requantize(static_cast<int32_t>(sum), multiplier));
  return SaturateToInt8(static_cast<int32_t>(requantized + static_cast<uint32_t>(layer.output_zero_point)));
}

inline void Clamp(int8_t low, int8_t high, int8_t* values, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const int8_t raised = values[i] < low ? low : values[i];
    values[i] = raised > high ? high : raised;
  }
}

inline void ClampToActivation(const FullyConnectedLayer& layer, int8_t* output) {
  if (layer.low != INT8_MIN || layer.high != INT8_MAX) Clamp(layer.low, layer.high, output, layer.rows);
}

/// Half of `value`, rounded down, saturated to int8.
HIL_ALWAYS_INLINE inline int8_t HalfSaturatedToInt8(int32_t value) {
#if defined(__ARM_FEATURE_SAT)
  int32_t result;
  __asm__("ssat %0, #8, %1, asr #1" : "=r"(result) : "r"(value));
  return static_cast<int8_t>(result);
#else
  return SaturateToInt8(value >> 1);
#endif
}

/// (twice_sum * fraction) / 2^32 rounded half up, which is MultiplyHigh() of the sum where that is below 2^30.
HIL_ALWAYS_INLINE inline int32_t MultiplyHighFast(int32_t twice_sum, int32_t fraction) {
#if defined(HIL_CORTEX_M_DSP)
  int32_t product;
  __asm__("smmulr %0, %1, %2" : "=r"(product) : "r"(twice_sum), "r"(fraction));
  return product;
#else
  return static_cast<int32_t>((static_cast<int64_t>(twice_sum) * fraction + (int64_t{1} << 31)) >> 32);
#endif
}

/// Requantized sum plus zero point. Rounding half away from zero as: subtract one from negative numbers, shift by all but one
/// bit, add one and the doubled zero point, shift by the last bit.
HIL_ALWAYS_INLINE inline int8_t FinishRow(int32_t twice_sum, int32_t fraction, int32_t shift, int32_t one_and_zero_point) {
  const int32_t product = MultiplyHighFast(twice_sum, fraction);
  return HalfSaturatedToInt8(((product + (product >> 31)) >> shift) + one_and_zero_point);
}

/// FinishRow() for all rows of a layer.
HIL_ALWAYS_INLINE inline void Finish(const FullyConnectedLayer& layer, const int32_t* sums, int8_t* output) {
  const int32_t one_and_zero_point = 1 + 2 * layer.output_zero_point;
  const int32_t* fractions = layer.fractions;
  const int8_t* shifts = layer.shifts;
  for (const int8_t* const end = output + layer.rows; output != end;) {
    *output++ = FinishRow(2 * *sums++, *fractions++, *shifts++, one_and_zero_point);
  }
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
    output[0] = FinishRow(2 * sums.a, fractions[0], shifts[0], one_and_zero_point);
    output[1] = FinishRow(2 * sums.b, fractions[1], shifts[1], one_and_zero_point);
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
