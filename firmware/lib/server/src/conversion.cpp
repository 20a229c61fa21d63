#include "server/conversion.h"

namespace hil {

void ExactConversion::ToCodes(const ArrayView<float>& values, const QuantParams& params, int8_t* codes) {
  for (uint16_t i = 0; i < values.size(); ++i) codes[i] = Quantize(values[i], params);
}

void ExactConversion::ToValues(const ArrayView<int8_t>& codes, const QuantParams& params, float* values) {
  for (uint16_t i = 0; i < codes.size(); ++i) values[i] = Dequantize(codes[i], params);
}

}  // namespace hil
