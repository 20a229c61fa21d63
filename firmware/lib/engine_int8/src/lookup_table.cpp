#include "engine_int8/lookup_table.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#include <arm_mve.h>
#endif

#include "engine_int8/fixed_point.h"

namespace hil::int8 {

namespace {

constexpr int32_t kArgumentFractionBits = 27;  // TANH and LOGISTIC see their argument as Q4.27
constexpr int32_t kLargestArgument = 15;       // beyond it they are at their limit

int8_t Clamp(int32_t value, int32_t low, int32_t high) {
  const int32_t raised = value < low ? low : value;
  return static_cast<int8_t>(raised > high ? high : raised);
}

/// The first distance from the zero point that is at the limit already.
int32_t Radius(const Multiplier& to_q27) {
  return to_q27.shift > 30 ? 0 : static_cast<int32_t>((uint32_t{kLargestArgument} << kArgumentFractionBits) >> to_q27.shift);
}

int8_t Squash(BuiltinOperator code, int32_t value, const Multiplier& to_q27) {
  const int32_t radius = Radius(to_q27);
  if (value <= -radius) {
    return INT8_MIN;
  }
  if (value >= radius) {
    return INT8_MAX;
  }
  const int32_t argument = Requantize(value, to_q27);
  return code == BuiltinOperator::kTanh ? Clamp(ShiftRight(TanhQ31(argument), 24), INT8_MIN, INT8_MAX)
                                        : Clamp(ShiftRight(LogisticQ31(argument), 23) - 128, INT8_MIN, INT8_MAX);
}

bool Same(const QuantParams& a, const QuantParams& b) { return a.scale == b.scale && a.zero_point == b.zero_point; }

/// Output scale over input scale is a quotient of float32 for the activations, and of doubles for QUANTIZE: as in TFLM.
Multiplier Rescaling(BuiltinOperator code, float input_scale, float output_scale) {
  return code == BuiltinOperator::kQuantize ? Quotient(input_scale, 1.0F, output_scale)
                                            : Quotient(input_scale / output_scale, 1.0F, 1.0F);
}

}  // namespace

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

bool TableIsDefined(BuiltinOperator code, const QuantParams& input, const QuantParams& output) {
  switch (code) {
    case BuiltinOperator::kTanh:
      return Same(output, {1.0F / 128, 0}) && ScaleTimesPowerOfTwo(input.scale, kArgumentFractionBits).shift >= 0;
    case BuiltinOperator::kLogistic:
      return Same(output, {1.0F / 256, -128}) && ScaleTimesPowerOfTwo(input.scale, kArgumentFractionBits).shift >= 0;
    case BuiltinOperator::kRelu6:
      return Same(output, input);
    default: {
      // Nine bits of input shifted left must stay within 32.
      return IsScale(input.scale / output.scale) && Rescaling(code, input.scale, output.scale).shift <= 22;
    }
  }
}

void BuildTable(BuiltinOperator code, const QuantParams& input, const QuantParams& output, int8_t* table) {
  const Multiplier to_q27 = ScaleTimesPowerOfTwo(input.scale, kArgumentFractionBits);
  const bool squashes = code == BuiltinOperator::kTanh || code == BuiltinOperator::kLogistic;
  const Multiplier rescaling = squashes ? Multiplier{} : Rescaling(code, input.scale, output.scale);
  int32_t low = INT8_MIN;
  int32_t high = INT8_MAX;
  if (code == BuiltinOperator::kReluN1To1) {
    low = Quantize(-1.0F, output);
    high = Quantize(1.0F, output);
  } else if (code != BuiltinOperator::kQuantize) {
    low = output.zero_point;
    high = code == BuiltinOperator::kRelu6 ? Quantize(6.0F, output) : INT8_MAX;
  }
  for (uint32_t i = 0; i < kTableEntries; ++i) {
    const int32_t raw = static_cast<int8_t>(i);
    const int32_t value = raw - input.zero_point;
    if (squashes) {
      table[i] = Squash(code, value, to_q27);
    } else if (code == BuiltinOperator::kRelu6) {
      table[i] = Clamp(raw, low, high);  // TFLM clamps and does not rescale
    } else {
      table[i] = Clamp(Requantize(value, rescaling) + output.zero_point, low, high);
    }
  }
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
  while (input != end) {  // by four, because the loop would cost more than the look-up
    output[0] = table[static_cast<uint8_t>(input[0])];
    output[1] = table[static_cast<uint8_t>(input[1])];
    output[2] = table[static_cast<uint8_t>(input[2])];
    output[3] = table[static_cast<uint8_t>(input[3])];
    input += 4;
    output += 4;
  }
  for (uint32_t i = 0; i < (count & 3u); ++i) {
    output[i] = table[static_cast<uint8_t>(input[i])];
  }
}

#endif

}  // namespace hil::int8
