#include "engine_int8/fully_connected.h"

#include "dense_rows.h"
#include "engine_int8/fixed_point.h"

namespace hil::int8 {

namespace {

/// Any layer, one element at a time.
void DenseRowsExact(const FullyConnectedLayer& layer, const int8_t* input, int8_t* output) {
  const int8_t* weights = layer.weights;
  for (uint32_t row = 0; row < layer.rows; ++row) {
    uint32_t sum = static_cast<uint32_t>(LoadInt32(layer.bias + 4 * row));
    for (uint32_t i = 0; i < layer.columns; ++i) sum += static_cast<uint32_t>(*weights++ * (input[i] - layer.input_zero_point));
    output[row] = FinishExact(layer, row, sum);
  }
}

}  // namespace

#if HIL_FOLDS_BIAS

int32_t FoldedBias(const FullyConnectedLayer& layer, uint32_t row) {
  const int8_t* const weights = layer.weights + row * layer.columns;
  int32_t added = 0;
  for (uint32_t i = 0; i < layer.columns; ++i) added += weights[i] * layer.input_zero_point;
  return LoadInt32(layer.bias + 4 * row) - added;
}

#endif

bool IsLargeEnough(const FullyConnectedLayer& layer) {
  return layer.columns >= kMinColumnsOfFastPath && layer.rows >= kMinRowsOfFastPath;
}

bool RowFits(const FullyConnectedLayer& layer, uint32_t row) {
  constexpr int64_t kLargestProduct = 255 * 128;  // input less its zero point, times a weight
  const int64_t bias = LoadInt32(layer.bias + 4 * row);
  const int64_t largest_sum = (bias < 0 ? -bias : bias) + layer.columns * kLargestProduct;
  const bool aligned = reinterpret_cast<uintptr_t>(layer.bias) % 4 == 0;
  return aligned && largest_sum < (int64_t{1} << 30) && layer.shifts[row] >= 0;
}

uint32_t ScratchBytes([[maybe_unused]] uint32_t columns, [[maybe_unused]] uint32_t rows) {
#if defined(HIL_DENSE_ROWS_SCALAR)
  return (rows + 3u) / 4u * 16u;
#else
  return (columns + 7u) / 8u * 16u;
#endif
}

void FullyConnected(const FullyConnectedLayer& layer, const int8_t* input, void* scratch, int8_t* output) {
  if (layer.fits) {
    DenseRows(layer, input, scratch, output);
    if (kDenseRowsClamps) return;
  } else {
    DenseRowsExact(layer, input, output);
  }
  ClampToActivation(layer, output);
}

}  // namespace hil::int8
