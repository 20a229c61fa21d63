#include "faults/fault.h"

#include <cstring>

namespace hil::faults {
namespace {

constexpr Entry kGallery[] = {
    {Fault::kInputTruncate, "input-truncate", "(int)(x / scale) + zero point, saturated"},
    {Fault::kInputTruncateSum, "input-truncate-sum", "(int)(x / scale + zero point), saturated"},
    {Fault::kInputFloor, "input-floor", "floor(x / scale) + zero point, saturated"},
    {Fault::kInputCastHalfUp, "input-cast-half-up", "(int)(x / scale + 0.5) + zero point, saturated"},
    {Fault::kInputHalfUp, "input-half-up", "floor(x / scale + 0.5) + zero point, saturated"},
    {Fault::kInputHalfEven, "input-half-even", "rint(x / scale) + zero point, saturated"},
    {Fault::kInputReciprocal, "input-reciprocal", "round(x * (1 / scale)) + zero point, saturated"},
    {Fault::kInputFloat64, "input-float64", "round((double)x / scale) + zero point, saturated"},
    {Fault::kInputWrap, "input-wrap", "(int8_t)(round(x / scale) + zero point), not saturated"},
    {Fault::kInputNoZeroPoint, "input-no-zero-point", "round(x / scale), saturated; zero point omitted"},
    {Fault::kInputZeroPointAbove, "input-zero-point-above", "adds one more than the zero point"},
    {Fault::kInputZeroPointBelow, "input-zero-point-below", "adds one less than the zero point"},
    {Fault::kInputScaleDigits, "input-scale-digits", "uses the scale rounded to four decimals"},
    {Fault::kInputOutputScale, "input-output-scale", "quantizes with scale and zero point of the model's output"},
    {Fault::kInputSwappedBytes, "input-swapped-bytes", "reads the floats of the observation in big-endian order"},
    {Fault::kInputPermuted, "input-permuted", "swaps the first two observations"},
    {Fault::kInputStale, "input-stale", "runs the model on the observation before the last"},
    {Fault::kModelOther, "model-other", "runs weights that do not match the model id"},
    {Fault::kModelConstant, "model-constant", "never copies the output tensor: always zeros"},
    {Fault::kModelWrongTensor, "model-wrong-tensor", "reads the first operator's tensor instead of the output"},
    {Fault::kModelPermuted, "model-permuted", "returns the outputs in reverse order"},
    {Fault::kModelStale, "model-stale", "reads the output before it runs the model"},
    {Fault::kModelWrap, "model-wrap", "casts the last layer's result to int8 instead of saturating it"},
    {Fault::kModelFirstScale, "model-first-scale", "applies the first channel's weight scale to every channel"},
    {Fault::kModelSingleRounding, "model-single-rounding", "requantizes with one rounding instead of two"},
    {Fault::kModelFloored, "model-floored", "requantizes without the rounding of the first product (VQDMULH for VQRDMULH)"},
    {Fault::kModelFloat32, "model-float32", "requantizes in float32, ties to even, as XNNPACK does"},
    {Fault::kModelTruncated, "model-truncated", "requantizes in float32 and truncates, as TinyEngine does"},
    {Fault::kModelNoBias, "model-no-bias", "omits the biases"},
    {Fault::kModelNoActivation, "model-no-activation", "omits the fused activations"},
    {Fault::kOutputNoZeroPoint, "output-no-zero-point", "scale * q; zero point omitted"},
    {Fault::kOutputZeroPointAbove, "output-zero-point-above", "subtracts one more than the zero point"},
    {Fault::kOutputZeroPointBelow, "output-zero-point-below", "subtracts one less than the zero point"},
    {Fault::kOutputScaleDigits, "output-scale-digits", "uses the scale rounded to four decimals"},
    {Fault::kOutputUnsigned, "output-unsigned", "reads the output as uint8_t"},
    {Fault::kOutputRaw127, "output-raw-127", "q / 127 in place of the model's own scale"},
    {Fault::kOutputSwappedBytes, "output-swapped-bytes", "sends the floats of the action in big-endian order"},
};

}  // namespace

const Entry* Gallery(size_t* count) {
  *count = sizeof(kGallery) / sizeof(kGallery[0]);
  return kGallery;
}

Fault Find(const char* name) {
  for (const Entry& entry : kGallery) {
    if (std::strcmp(entry.name, name) == 0) return entry.fault;
  }
  return Fault::kNone;
}

Fault At(size_t number) {
  const size_t count = sizeof(kGallery) / sizeof(kGallery[0]);
  return number >= 1 && number <= count ? kGallery[number - 1].fault : Fault::kNone;
}

}  // namespace hil::faults
