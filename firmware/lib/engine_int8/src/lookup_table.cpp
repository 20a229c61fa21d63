#include "engine_int8/lookup_table.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#include <arm_mve.h>
#endif

#include "engine_int8/fixed_point.h"

namespace hil::int8 {

namespace {

constexpr int32_t kArgumentFractionBits = 27;  // argument of TANH and LOGISTIC: Q4.27
constexpr int32_t kLargestArgument = 15;       // beyond it they are saturated
constexpr int32_t kMaxRescalingShift = 22;     // nine bits of input, shifted left, must fit 32

int8_t Clamp(int32_t value, int32_t low, int32_t high) {
  const int32_t raised = value < low ? low : value;
  return static_cast<int8_t>(raised > high ? high : raised);
}

/// Smallest distance from the zero point at which the function saturates.
int32_t Radius(const Multiplier& to_q27) {
  return to_q27.shift > 30 ? 0 : static_cast<int32_t>((uint32_t{kLargestArgument} << kArgumentFractionBits) >> to_q27.shift);
}

/// TANH or LOGISTIC of `value`, a code less its zero point, before clamping. Both are odd in their codes: `opposite` is the
/// result of -value where that is known.
int32_t Squash(bool tanh, int32_t value, const Multiplier& to_q27, const int8_t* opposite) {
  const int32_t radius = Radius(to_q27);
  if (value <= -radius) return INT8_MIN;
  if (value >= radius) return INT8_MAX;
  const int32_t argument = Requantize(value, to_q27);
  if (opposite != nullptr && argument == -Requantize(-value, to_q27)) return -*opposite;
  return tanh ? ShiftRight(TanhQ31(argument), 24) : ShiftRight(LogisticQ31(argument), 23) - 128;
}

bool Same(const QuantParams& a, const QuantParams& b) { return a.scale == b.scale && a.zero_point == b.zero_point; }

}  // namespace

void ActivationRange(FusedActivation activation, const QuantParams& output, int8_t* low, int8_t* high) {
  *low = INT8_MIN;
  *high = INT8_MAX;
  if (activation == FusedActivation::kRelu || activation == FusedActivation::kRelu6) *low = output.zero_point;
  if (activation == FusedActivation::kRelu6) *high = Quantize(6.0F, output);
  if (activation == FusedActivation::kReluN1To1) {
    *low = Quantize(-1.0F, output);
    *high = Quantize(1.0F, output);
  }
}

bool HasTable(BuiltinOperator code) {
  switch (code) {
    case BuiltinOperator::kTanh:
    case BuiltinOperator::kLogistic:
    case BuiltinOperator::kRelu:
    case BuiltinOperator::kRelu6:
    case BuiltinOperator::kReluN1To1:
    case BuiltinOperator::kQuantize:
      return true;
    default:
      return false;
  }
}

bool BuildTable(BuiltinOperator code, const QuantParams& input, const QuantParams& output, int8_t* table) {
  const bool tanh = code == BuiltinOperator::kTanh;
  const bool squashes = tanh || code == BuiltinOperator::kLogistic;
  FusedActivation activation = FusedActivation::kNone;
  Multiplier multiplier = {1 << 30, 1};
  bool defined = true;
  if (squashes) {
    multiplier = ScaleTimesPowerOfTwo(input.scale, kArgumentFractionBits);
    defined = multiplier.shift >= 0 && Same(output, tanh ? QuantParams{1.0F / 128, 0} : QuantParams{1.0F / 256, -128});
  } else if (code == BuiltinOperator::kRelu6) {  // TFLM clamps and does not rescale
    activation = FusedActivation::kRelu6;
    defined = Same(output, input);
  } else {
    // A quotient of doubles for QUANTIZE and of float32 for the activations: as in TFLM.
    const float ratio = input.scale / output.scale;
    const bool doubles = code == BuiltinOperator::kQuantize;
    multiplier = Quotient(doubles ? input.scale : ratio, 1.0F, doubles ? output.scale : 1.0F);
    defined = IsScale(ratio) && multiplier.shift <= kMaxRescalingShift;
    if (!doubles) activation = code == BuiltinOperator::kRelu ? FusedActivation::kRelu : FusedActivation::kReluN1To1;
  }
  int8_t low;
  int8_t high;
  ActivationRange(activation, output, &low, &high);
  for (int32_t code_in = INT8_MIN; table != nullptr && defined && code_in <= INT8_MAX; ++code_in) {
    const int32_t value = code_in - input.zero_point;
    const int32_t mirrored = input.zero_point - value;  // the code of -value
    const int8_t* const opposite = value > 0 && mirrored >= INT8_MIN ? &table[static_cast<uint8_t>(mirrored)] : nullptr;
    const int32_t result =
        squashes ? Squash(tanh, value, multiplier, opposite) : Requantize(value, multiplier) + output.zero_point;
    table[static_cast<uint8_t>(code_in)] = Clamp(result, low, high);
  }
  return defined;
}

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)

void Lookup(const int8_t* table, const int8_t* input, int8_t* output, uint32_t count) {
  constexpr uint32_t kLanes = 16;
  for (uint32_t i = 0; i < count; i += kLanes) {
    const mve_pred16_t left = vctp8q(count - i);
    const uint8x16_t values = vreinterpretq_u8_s8(vldrbq_z_s8(input + i, left));
    vstrbq_p_s8(output + i, vldrbq_gather_offset_z_s8(table, values, left), left);
  }
}

#else

void Lookup(const int8_t* table, const int8_t* input, int8_t* output, uint32_t count) {
  const int8_t* const end = input + (count & ~3u);
  while (input != end) {  // unrolled: the loop would cost more than the look-up
    output[0] = table[static_cast<uint8_t>(input[0])];
    output[1] = table[static_cast<uint8_t>(input[1])];
    output[2] = table[static_cast<uint8_t>(input[2])];
    output[3] = table[static_cast<uint8_t>(input[3])];
    input += 4;
    output += 4;
  }
  for (uint32_t i = 0; i < (count & 3u); ++i) output[i] = table[static_cast<uint8_t>(input[i])];
}

#endif

}  // namespace hil::int8
