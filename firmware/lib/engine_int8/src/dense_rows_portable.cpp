#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_PORTABLE)

namespace hil::int8 {

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, void* scratch, int8_t* output) {
  const uint32_t columns = layer.columns;
  int16_t* const x = static_cast<int16_t*>(scratch);
  for (uint32_t i = 0; i < columns; ++i) x[i] = static_cast<int16_t>(input[i] - layer.input_zero_point);
  ForEachPairOfRows(layer, output, [=](const int8_t* a, const int8_t* b, PairOfSums sums) {
    for (uint32_t i = 0; i < columns; ++i) {
      sums.a += a[i] * x[i];
      sums.b += b[i] * x[i];
    }
    return sums;
  });
}

}  // namespace hil::int8

#endif
