// Conversion between physical values and a model's raw ones, around the engine.
#pragma once

#include "quantize/quantize.h"
#include "status/view.h"

namespace hil {

/// Converts whole vectors. Boards use ExactConversion; the fault gallery replaces it.
class Conversion {
 public:
  /// Called when a model is loaded, before any conversion with its parameters.
  virtual void Prepare(const QuantParams&, const QuantParams&) {}

  /// Fills `codes`, bytes of raw values, with as many values as `values` holds, all finite: an observation, or a part of one.
  virtual void ToCodes(const ArrayView<float>& values, const QuantParams& params, int8_t* codes) = 0;

  /// Fills `values` from `codes`, the bytes of all its raw values.
  virtual void ToValues(const ArrayView<int8_t>& codes, const QuantParams& params, float* values) = 0;

 protected:
  ~Conversion() = default;
};

/// Quantize() and Dequantize() for each element, or what is for another element type.
class ExactConversion final : public Conversion {
 public:
  void ToCodes(const ArrayView<float>& values, const QuantParams& params, int8_t* codes) override {
    if (kWide && params.type != ElementType::kInt8) return QuantizeWide(values, params, codes);
    for (uint32_t i = 0; i < values.size(); ++i) codes[i] = Quantize(values[i], params);
  }
  void ToValues(const ArrayView<int8_t>& codes, const QuantParams& params, float* values) override {
    if (kWide && params.type != ElementType::kInt8)
      return DequantizeWide(reinterpret_cast<const int8_t*>(codes.bytes()), codes.size() / WidthOf(params.type), params, values);
    for (uint32_t i = 0; i < codes.size(); ++i) values[i] = Dequantize(codes[i], params);
  }
};

/// What every board uses. It has no state.
inline ExactConversion exact_conversion;

}  // namespace hil
