// Per-feature normalization of observations. The twin of balance_hil.quantize.Normalization, bit for bit.
#pragma once

#include "status/view.h"

namespace hil {

/// Applied to an observation before quantization. Both arrays have one element per input of the model.
struct Normalization {
  ArrayView<float> mean;
  ArrayView<float> inverse_std;  ///< > 0
  float clip = 0.0f;             ///< > 0: limit of the absolute result

  bool none() const { return mean.size() == 0; }

  /// Whether every number is finite, and factors and clip are positive.
  bool valid() const;
};

/// Subtracts the mean, multiplies by the inverse standard deviation, clips; each in float32 and in this order.
///
/// This order gives the same bits everywhere: scale and offset in one step would become a fused multiply-add on some processors.
/// `value` must be finite.
float Normalize(float value, float mean, float inverse_std, float clip);

}  // namespace hil
