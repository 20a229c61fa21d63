// Quantize() and Dequantize() by tables, for processors without a floating-point unit: 2 kB for 8 comparisons of integers an
// element instead of a division. Of int8 models: others are converted exactly, too, but without tables.
#pragma once

#include <cstdint>

#include "policy/conversion.h"

namespace hil {

class TableConversion final : public Conversion {
 public:
  void Prepare(const QuantParams& input, const QuantParams& output) override;
  void ToCodes(const ArrayView<float>& values, const QuantParams& params, int8_t* codes) override;
  void ToValues(const ArrayView<int8_t>& codes, const QuantParams& params, float* values) override;

 private:
  static constexpr int kCodes = 256;
  int32_t thresholds_[kCodes - 1];  // in the order of Key(): the least value of each code but the lowest
  float values_[kCodes];            // by code + 128
};

}  // namespace hil
