// Cortex-M55: sixteen products in one instruction (MVE).
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_MVE)

#include <arm_mve.h>

namespace hil::int8 {

namespace {

constexpr uint32_t kLanes = 16;

/// Sums over one row of weights: with the raw input, and alone. The zero point comes off afterwards, because input less zero
/// point may need nine bits.
struct RowSums {
  int32_t products = 0;
  int32_t weights = 0;

  void Add(int8x16_t row, int8x16_t input) {
    products = vmladavaq_s8(products, row, input);
    weights = vaddvaq_s8(weights, row);
  }
};

}  // namespace

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, int16_t*, int8_t* output) {
  const uint32_t columns = layer.columns;
  const int32_t one_and_zero_point = 1 + 2 * layer.output_zero_point;
  for (uint32_t row = 0; row < layer.rows; row += 2) {  // two rows share the loading of the input
    const bool pair = row + 1 < layer.rows;
    const int8_t* const a = layer.weights + row * columns;
    const int8_t* const b = pair ? a + columns : a;
    RowSums sums_a;
    RowSums sums_b;
    for (uint32_t i = 0; i < columns; i += kLanes) {
      const mve_pred16_t left = vctp8q(columns - i);  // lanes beyond the row load zeros and touch no memory
      const int8x16_t x = vldrbq_z_s8(input + i, left);
      sums_a.Add(vldrbq_z_s8(a + i, left), x);
      sums_b.Add(vldrbq_z_s8(b + i, left), x);
    }
    const int32_t sum_a = BiasOf(layer, row) + sums_a.products - layer.input_zero_point * sums_a.weights;
    output[row] = FinishRow(layer, row, sum_a, one_and_zero_point);
    if (pair) {
      const int32_t sum_b = BiasOf(layer, row + 1) + sums_b.products - layer.input_zero_point * sums_b.weights;
      output[row + 1] = FinishRow(layer, row + 1, sum_b, one_and_zero_point);
    }
  }
}

}  // namespace hil::int8

#endif
