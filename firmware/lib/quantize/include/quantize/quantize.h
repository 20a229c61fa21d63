// Affine quantization with the rounding of TensorFlow Lite Micro. The twin of balance_hil.quantize, bit for bit.
#pragma once

#include <cstdint>

#include "status/view.h"

namespace hil {

#if !defined(HIL_WIDE)
#define HIL_WIDE 0
#endif

/// Whether the image runs models of other element types than int8. One that does not has none of their code.
inline constexpr bool kWide = HIL_WIDE != 0;

/// What a model computes with: the type of its input, of its output and of what lies between its operators.
enum class ElementType : uint8_t {
  kInt8 = 0,
  kInt16x8 = 1,  ///< int16, with weights in int8
  kFloat32 = 2,
};

/// Bytes of one raw value; 1 for a number that is no element type.
constexpr uint32_t WidthOf(ElementType type) {
  return kWide && type == ElementType::kInt16x8 ? 2 : kWide && type == ElementType::kFloat32 ? 4 : 1;
}

/// Parameters of one tensor. Scale and zero point of float32 are 1 and 0; the zero point of int16 is 0.
struct QuantParams {
  float scale = 1.0f;  ///< > 0 and finite: checked when a model is loaded
  int8_t zero_point = 0;
  ElementType type = ElementType::kInt8;
};

/// Converts a physical value to int8: divide in float32, round half away from zero, add the zero point, saturate.
/// `value` must be finite: the caller refuses anything else with Status::kNonFinite.
int8_t Quantize(float value, const QuantParams& params);

/// Converts int8 to a physical value: scale * (value - zero_point) in float64, then rounded to float32.
float Dequantize(int8_t value, const QuantParams& params);

/// The same for vectors of another element type. `raw`: bytes, at any alignment; float32 is copied as it is.
void QuantizeWide(const ArrayView<float>& values, const QuantParams& params, int8_t* raw);
void DequantizeWide(const int8_t* raw, uint32_t count, const QuantParams& params, float* values);

}  // namespace hil
