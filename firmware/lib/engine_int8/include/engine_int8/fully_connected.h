// FULLY_CONNECTED on int8: one implementation per kind of processor, with identical results.
#pragma once

#include <cstdint>

// Which of dense_rows_*.cpp is compiled.
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_ARCH_PROFILE) && (__ARM_ARCH_PROFILE == 'M')
#define HIL_CORTEX_M_DSP 1
#endif

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define HIL_DENSE_ROWS_MVE 1
#elif defined(HIL_CORTEX_M_DSP)
#define HIL_DENSE_ROWS_DSP 1
#elif defined(__ARM_ARCH_6M__) || defined(__ARM_ARCH_7M__)
#define HIL_DENSE_ROWS_SCALAR 1
#else
#define HIL_DENSE_ROWS_PORTABLE 1
#endif

// Whether it takes a bias from which what it adds for an input of zeros is subtracted.
#if defined(HIL_DENSE_ROWS_SCALAR) || defined(HIL_DENSE_ROWS_MVE)
#define HIL_FOLDS_BIAS 1
#else
#define HIL_FOLDS_BIAS 0
#endif

namespace hil::int8 {

/// One dense layer. Everything it points to outlives it.
struct FullyConnectedLayer {
  const int8_t* weights;  // [rows][columns]
  const uint8_t* bias;    // int32 [rows], possibly unaligned
#if HIL_FOLDS_BIAS
  const int32_t* folded_bias;  // [rows], see FoldedBias()
#endif
  const int32_t* fractions;  // [rows], Multiplier::fraction
  const int8_t* shifts;      // [rows], -1 - Multiplier::shift: right shift beyond the first bit
  uint32_t rows;
  uint32_t columns;
  int16_t input_zero_point;
  int16_t output_zero_point;
  int8_t low;  // of the fused activation
  int8_t high;
  bool fits;  // the fast arithmetic holds every accumulator and multiplier: RowFits() for every row
};

#if HIL_FOLDS_BIAS
/// The bias of one row that `fits`, less what the fast arithmetic adds for an input of zeros: input zero point times sum of the
/// weights.
int32_t FoldedBias(const FullyConnectedLayer& layer, uint32_t row);
#endif

/// True when a layer has enough products for the fast path of FullyConnected().
bool IsLargeEnough(const FullyConnectedLayer& layer);

/// True when the row's accumulator stays below 2^30 for every input, and its multiplier is at most 1/2.
bool RowFits(const FullyConnectedLayer& layer, uint32_t row);

/// Bytes of scratch memory, aligned to 4, that FullyConnected() needs for a layer.
uint32_t ScratchBytes(uint32_t columns, uint32_t rows);

/// output, int8 [rows] = clamp(requantize(weights * (input - zero point) + bias)).
void FullyConnected(const FullyConnectedLayer& layer, const int8_t* input, void* scratch, int8_t* output);

}  // namespace hil::int8
