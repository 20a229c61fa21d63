// Cortex-M55: sixteen products in one instruction (MVE).
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_MVE)

#include "mve.h"

namespace hil::int8 {

namespace {

constexpr uint32_t kLanes = 16;
constexpr uint32_t kRows = 4;  // share the loads of the input

}  // namespace

void DenseRows(const FullyConnectedLayer& layer_in_memory, const int8_t* input, void*, int8_t* output) {
  const FullyConnectedLayer layer = layer_in_memory;  // a copy, because int8 stores may alias the original
  const uint32_t columns = layer.columns;
  const uint32_t whole = columns / kLanes;
  const mve_pred16_t in_rest = vctp8q(columns % kLanes);  // lanes beyond the row load zeros and touch no memory
  for (uint32_t row = 0; row < layer.rows; row += kRows) {
    const uint32_t left = layer.rows - row;
    // Behind the last row, it is repeated; those sums are not stored.
    const int8_t* a = layer.weights + row * columns;
    const int8_t* b = left > 1 ? a + columns : a;
    const int8_t* c = left > 2 ? b + columns : b;
    const int8_t* d = left > 3 ? c + columns : c;
    const int8_t* x = input;
    int32_t sum_a = 0;
    int32_t sum_b = 0;
    int32_t sum_c = 0;
    int32_t sum_d = 0;
    for (uint32_t i = whole; i != 0; --i) {
      const int8x16_t elements = vldrbq_s8(x);
      sum_a = vmladavaq_s8(sum_a, vldrbq_s8(a), elements);
      sum_b = vmladavaq_s8(sum_b, vldrbq_s8(b), elements);
      sum_c = vmladavaq_s8(sum_c, vldrbq_s8(c), elements);
      sum_d = vmladavaq_s8(sum_d, vldrbq_s8(d), elements);
      x += kLanes;
      a += kLanes;
      b += kLanes;
      c += kLanes;
      d += kLanes;
    }
    if (columns % kLanes != 0) {
      const int8x16_t elements = vldrbq_z_s8(x, in_rest);
      sum_a = vmladavaq_s8(sum_a, vldrbq_z_s8(a, in_rest), elements);
      sum_b = vmladavaq_s8(sum_b, vldrbq_z_s8(b, in_rest), elements);
      sum_c = vmladavaq_s8(sum_c, vldrbq_z_s8(c, in_rest), elements);
      sum_d = vmladavaq_s8(sum_d, vldrbq_z_s8(d, in_rest), elements);
    }
    const mve_pred16_t in_rows = vctp32q(left);
    const int32x4_t sums = vsetq_lane_s32(sum_d, vsetq_lane_s32(sum_c, vsetq_lane_s32(sum_b, vdupq_n_s32(sum_a), 1), 2), 3);
    const int32x4_t finished = FinishFour(vaddq_s32(sums, vldrwq_z_s32(layer.folded_bias + row, in_rows)), layer, row, in_rows);
    vstrbq_p_s32(output + row, finished, in_rows);
  }
}

}  // namespace hil::int8

#endif
