// ADD and MUL of two tensors, with broadcasting.
#include "builder.h"
#include "engine_int8/fixed_point.h"
#include "engine_int8/lookup_table.h"

namespace hil::int8 {

namespace {

constexpr OptionsType kAddOptions = {11, 0};
constexpr OptionsType kMulOptions = {21, 0};
constexpr int32_t kLeftShift = 20;  // more bits for the summands
constexpr float kTwoToMinusShift = 1.0F / (1 << kLeftShift);
constexpr int32_t kMaxProductShift = 14;  // products have 17 bits with sign

struct Pair {
  uint32_t sizes[4];  // of the output
  uint32_t steps[2][4];
  const int8_t* inputs[2];
  int32_t zero_points[2];
  Multiplier multipliers[2];  // of the summands
  Multiplier multiplier;      // of sum or product
  int32_t output_zero_point;
  int8_t low;
  int8_t high;
};

int32_t Combine(const Pair& pair, bool adds, int32_t a, int32_t b) {
  if (!adds) return Requantize(a * b, pair.multiplier);
  return Requantize(
      Requantize(a * (1 << kLeftShift), pair.multipliers[0]) + Requantize(b * (1 << kLeftShift), pair.multipliers[1]),
      pair.multiplier);
}

template <bool kAdds>
void Run(const Step& step, void*) {
  const Pair& pair = *static_cast<const Pair*>(step.linked.parameters);
  int8_t* output = static_cast<int8_t*>(step.output);
  const uint32_t* const sizes = pair.sizes;
  for (uint32_t row = 0; row < sizes[0] * sizes[1] * sizes[2]; ++row) {
    const uint32_t at[3] = {row / (sizes[1] * sizes[2]), row / sizes[2] % sizes[1], row % sizes[2]};
    const int8_t* inputs[2];
    for (uint32_t i = 0; i < 2; ++i) {
      inputs[i] = pair.inputs[i];
      for (uint32_t axis = 0; axis < 3; ++axis) inputs[i] += at[axis] * pair.steps[i][axis];
    }
    for (uint32_t i = 0; i < sizes[3]; ++i) {
      const int32_t a = *inputs[0] - pair.zero_points[0];
      const int32_t b = *inputs[1] - pair.zero_points[1];
      const int32_t result = Combine(pair, kAdds, a, b) + pair.output_zero_point;
      const int32_t raised = result < pair.low ? pair.low : result;
      *output++ = static_cast<int8_t>(raised > pair.high ? pair.high : raised);
      inputs[0] += pair.steps[0][3];
      inputs[1] += pair.steps[1][3];
    }
  }
}

/// Steps in memory from one element of an input to the next along each axis of the output; 0 where it is repeated.
bool Broadcast(const Shape& from, const Shape& to, uint32_t* steps) {
  uint32_t step = 1;
  for (uint32_t axis = 4; axis-- > 0;) {
    if (from.sizes[axis] != to.sizes[axis] && from.sizes[axis] != 1) return false;
    steps[axis] = from.sizes[axis] == 1 ? 0 : step;
    step *= from.sizes[axis];
  }
  return true;
}

bool SetMultipliers(bool adds, const Operand (&inputs)[2], const Operand& output, Pair* pair) {
  const float a = inputs[0].quant.scale;
  const float b = inputs[1].quant.scale;
  if (!adds) {
    pair->multiplier = Quotient(a, b, output.quant.scale);
    return pair->multiplier.shift <= kMaxProductShift;
  }
  const float twice_largest = 2 * (a > b ? a : b);
  if (!IsScale(twice_largest)) return false;
  pair->multipliers[0] = Quotient(a, 1.0F, twice_largest);
  pair->multipliers[1] = Quotient(b, 1.0F, twice_largest);
  pair->multiplier = Quotient(twice_largest, kTwoToMinusShift, output.quant.scale);
  return pair->multiplier.shift <= 0;  // TFLM takes no other
}

template <bool kAdds>
bool Prepare(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Pair counted = {};
  Pair& pair = builder->ParametersOf(step, &counted);
  Operand inputs[2] = {input, {}};
  if (!builder->ReadInput(op, 1, true, &inputs[1]) || inputs[1].tensor.type != TensorType::kInt8) return false;
  Shape to;
  if (!builder->ReadShape(output.tensor, &to)) return false;
  Pair made = {};
  uint32_t whole = 0;  // inputs of the output's size
  for (uint32_t i = 0; i < 2; ++i) {
    Shape from;
    if (!builder->ReadShape(inputs[i].tensor, &from) || !Broadcast(from, to, made.steps[i])) return false;
    whole += inputs[i].tensor.elements == output.tensor.elements ? 1 : 0;
    made.inputs[i] = static_cast<const int8_t*>(inputs[i].data);
    made.zero_points[i] = inputs[i].quant.zero_point;
  }
  if (whole == 0) return false;
  for (uint32_t axis = 0; axis < 4; ++axis) made.sizes[axis] = to.sizes[axis];
  if (whole == 2) {  // one long row
    for (uint32_t axis = 0; axis < 4; ++axis) made.sizes[axis] = axis < 3 ? 1 : output.tensor.elements;
    made.steps[0][3] = made.steps[1][3] = 1;
  }
  made.output_zero_point = output.quant.zero_point;
  if (!SetMultipliers(kAdds, inputs, output, &made)) return builder->Refuse("scales");
  if (!builder->ReadActivation(op, kAdds ? kAddOptions : kMulOptions, output, &made.low, &made.high)) return false;
  pair = made;
  step->linked.run = Run<kAdds>;
  return true;
}

}  // namespace

const Kernel add_kernel = {BuiltinOperator::kAdd, Prepare<true>};
const Kernel mul_kernel = {BuiltinOperator::kMul, Prepare<false>};

}  // namespace hil::int8
