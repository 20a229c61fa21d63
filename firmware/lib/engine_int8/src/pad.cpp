// PAD.
#include <cstring>

#include "builder.h"

namespace hil::int8 {

namespace {

struct Padding {
  uint32_t from[4];
  uint32_t to[4];
  uint32_t before[4];
  int8_t value;
};

void Run(const Step& step, void*) {
  const Padding& padding = *static_cast<const Padding*>(step.linked.parameters);
  const int8_t* input = static_cast<const int8_t*>(step.input);
  int8_t* const output = static_cast<int8_t*>(step.output);
  std::memset(output, padding.value, step.elements);
  for (uint32_t i = 0; i < padding.from[0]; ++i) {
    for (uint32_t j = 0; j < padding.from[1]; ++j) {
      for (uint32_t k = 0; k < padding.from[2]; ++k, input += padding.from[3]) {
        const uint32_t plane = (i + padding.before[0]) * padding.to[1] + j + padding.before[1];
        const uint32_t row = plane * padding.to[2] + k + padding.before[2];
        std::memcpy(output + row * padding.to[3] + padding.before[3], input, padding.from[3]);
      }
    }
  }
}

bool Prepare(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Padding counted = {};
  Padding& padding = builder->ParametersOf(step, &counted);
  Shape from;
  Shape to;
  int32_t numbers[8] = {};
  const uint32_t count = builder->ReadNumbers(op, 1, 8, numbers);
  if (!builder->ReadShape(input.tensor, &from) || !builder->ReadShape(output.tensor, &to) || from.rank != to.rank ||
      count != 2 * from.rank || !SameQuant(input.quant, output.quant)) {
    return false;
  }
  Padding made = {};
  for (uint32_t axis = 0; axis < 4; ++axis) {
    const uint32_t ones = 4 - from.rank;
    const bool given = axis >= ones;
    const int32_t before = given ? numbers[2 * (axis - ones)] : 0;
    const int32_t after = given ? numbers[2 * (axis - ones) + 1] : 0;
    const auto room = static_cast<int64_t>(to.sizes[axis]) - from.sizes[axis];
    if (before < 0 || after < 0 || static_cast<int64_t>(before) + after != room) return builder->Refuse("padding");
    made.from[axis] = from.sizes[axis];
    made.to[axis] = to.sizes[axis];
    made.before[axis] = static_cast<uint32_t>(before);
  }
  made.value = output.quant.zero_point;
  padding = made;
  step->linked.run = Run;
  return true;
}

}  // namespace

const Kernel pad_kernel = {BuiltinOperator::kPad, Prepare};

}  // namespace hil::int8
