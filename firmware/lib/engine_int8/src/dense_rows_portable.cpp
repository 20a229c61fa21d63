#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_PORTABLE)

namespace hil::int8 {

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, int16_t* scratch, int8_t* output) {
  const uint32_t columns = layer.columns;
  const int32_t one_and_zero_point = 1 + 2 * layer.output_zero_point;
  for (uint32_t i = 0; i < columns; ++i) {
    scratch[i] = static_cast<int16_t>(input[i] - layer.input_zero_point);
  }
  for (uint32_t row = 0; row < layer.rows; row += 2) {  // two rows share the loading of the input
    const bool pair = row + 1 < layer.rows;
    const int8_t* a = layer.weights + row * columns;
    const int8_t* b = pair ? a + columns : a;
    int32_t sum_a = BiasOf(layer, row);
    int32_t sum_b = pair ? BiasOf(layer, row + 1) : 0;
    for (uint32_t i = 0; i < columns; ++i) {
      sum_a += a[i] * scratch[i];
      sum_b += b[i] * scratch[i];
    }
    output[row] = FinishRow(layer, row, sum_a, one_and_zero_point);
    if (pair) {
      output[row + 1] = FinishRow(layer, row + 1, sum_b, one_and_zero_point);
    }
  }
}

}  // namespace hil::int8

#endif
