// Four results at once on a Cortex-M55 (MVE).
#pragma once

#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_MVE)

#include <arm_mve.h>

namespace hil::int8 {

/// Divided by 2^(`shift` + 1), rounded half away from zero: ShiftRight() of numbers below 2^30.
HIL_ALWAYS_INLINE inline int32x4_t ShiftRightFour(int32x4_t values, int32x4_t shifts) {
  return vrshlq_s32(vaddq_s32(values, vshrq_n_s32(values, 31)), vmvnq_s32(shifts));
}

HIL_ALWAYS_INLINE inline int32x4_t ClampFour(int32x4_t values, int8_t low, int8_t high) {
  return vminq_s32(vmaxq_s32(values, vdupq_n_s32(low)), vdupq_n_s32(high));
}

/// FinishRow() clamped to the activation, for the sums of the rows `row` to `row` + 3 of a layer that `fits`.
HIL_ALWAYS_INLINE inline int32x4_t FinishFour(int32x4_t sums, const FullyConnectedLayer& layer, uint32_t row,
                                              mve_pred16_t in_rows) {
  const int32x4_t products = vqrdmulhq_s32(sums, vldrwq_z_s32(layer.fractions + row, in_rows));
  const int32x4_t scaled = ShiftRightFour(products, vldrbq_z_s32(layer.shifts + row, in_rows));
  return ClampFour(vaddq_n_s32(scaled, layer.output_zero_point), layer.low, layer.high);
}

}  // namespace hil::int8

#endif
