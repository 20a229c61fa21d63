// Cortex-M55: sixteen products in one instruction (MVE).
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_MVE)

#include <arm_mve.h>

namespace hil::int8 {

namespace {

constexpr uint32_t kLanes = 16;

/// Sums over one row: of weights times raw input, and of weights. The zero point is subtracted afterwards, because input minus
/// zero point may need nine bits.
struct RowSums {
  int32_t products = 0;
  int32_t weights = 0;

  void Add(int8x16_t row, int8x16_t input) {
    products = vmladavaq_s8(products, row, input);
    weights = vaddvaq_s8(weights, row);
  }
};

}  // namespace

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, void*, int8_t* output) {
  const uint32_t whole = layer.columns / kLanes;
  const uint32_t rest = layer.columns % kLanes;
  const mve_pred16_t in_rest = vctp8q(rest);  // lanes beyond the row load zeros and touch no memory
  const int32_t zero_point = layer.input_zero_point;
  ForEachPairOfRows(layer, output, [=](const int8_t* a, const int8_t* b, PairOfSums sums) {
    const int8_t* x = input;
    RowSums sums_a;
    RowSums sums_b;
    for (uint32_t left = whole; left != 0; --left) {
      const int8x16_t elements = vldrbq_s8(x);
      sums_a.Add(vldrbq_s8(a), elements);
      sums_b.Add(vldrbq_s8(b), elements);
      x += kLanes;
      a += kLanes;
      b += kLanes;
    }
    if (rest != 0) {
      const int8x16_t elements = vldrbq_z_s8(x, in_rest);
      sums_a.Add(vldrbq_z_s8(a, in_rest), elements);
      sums_b.Add(vldrbq_z_s8(b, in_rest), elements);
    }
    sums.a += sums_a.products - zero_point * sums_a.weights;
    sums.b += sums_b.products - zero_point * sums_b.weights;
    return sums;
  });
}

}  // namespace hil::int8

#endif
