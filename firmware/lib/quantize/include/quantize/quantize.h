// Affine int8 quantization with the rounding of TensorFlow Lite Micro. The twin of balance_hil.quantize, bit for bit.
#pragma once

#include <cstdint>

namespace hil {

/// Parameters of one tensor.
struct QuantParams {
  float scale = 1.0f;  ///< > 0 and finite: checked when a model is loaded
  int8_t zero_point = 0;
};

/// Converts a physical value to int8: divide in float32, round half away from zero, add the zero point, saturate.
/// `value` must be finite: the caller refuses anything else with Status::kNonFinite.
int8_t Quantize(float value, const QuantParams& params);

/// Converts int8 to a physical value: scale * (value - zero_point) in float64, then rounded to float32.
float Dequantize(int8_t value, const QuantParams& params);

}  // namespace hil
