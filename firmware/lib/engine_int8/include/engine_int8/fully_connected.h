// FULLY_CONNECTED on int8: one implementation per kind of processor, with identical results.
#pragma once

#include <cstdint>

namespace hil::int8 {

/// Whether this processor's fast arithmetic takes a bias from which input zero point times sum of the weights is subtracted.
#if defined(__ARM_ARCH_6M__)
#define HIL_FOLDS_BIAS 1
#else
#define HIL_FOLDS_BIAS 0
#endif

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
  bool fits;  // RowFits() for every row: the fast arithmetic holds every accumulator and multiplier
};

/// The bias of one row, less input zero point times sum of the weights. It wraps, and so does the sum that begins with it.
int32_t FoldedBias(const FullyConnectedLayer& layer, uint32_t row);

/// True when the row's accumulator stays below 2^30 for every input, and its multiplier is at most 1/2.
bool RowFits(const FullyConnectedLayer& layer, uint32_t row);

/// Bytes of scratch memory, aligned to 4, that FullyConnected() needs for a layer.
uint32_t ScratchBytes(uint32_t columns, uint32_t rows);

/// output, int8 [rows] = clamp(requantize(weights * (input - zero point) + bias)).
void FullyConnected(const FullyConnectedLayer& layer, const int8_t* input, int16_t* scratch, int8_t* output);

}  // namespace hil::int8
