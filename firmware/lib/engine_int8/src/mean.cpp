// MEAN over any axes.
#include "builder.h"
#include "engine_int8/fixed_point.h"

namespace hil::int8 {

namespace {

struct Mean {
  uint32_t kept[4];     // sizes of the output's axes, 1 where the mean is taken
  uint32_t reduced[4];  // sizes of the others
  uint32_t steps[4];    // in memory, from one input to the next
  int32_t offset;       // of the sums: elements times zero point
  Multiplier multiplier;
  int8_t zero_point;  // of the output
};

int32_t Sum(const Mean& mean, const int8_t* first) {
  int32_t sum = 0;
  for (uint32_t i = 0; i < mean.reduced[0]; ++i) {
    for (uint32_t j = 0; j < mean.reduced[1]; ++j) {
      for (uint32_t k = 0; k < mean.reduced[3]; ++k) {
        // The width inside: most models take the mean of an image, not of its channels.
        const int8_t* element = first + i * mean.steps[0] + j * mean.steps[1] + k * mean.steps[3];
        for (uint32_t left = mean.reduced[2]; left != 0; --left, element += mean.steps[2]) sum += *element;
      }
    }
  }
  return sum;
}

void Run(const Step& step, void*) {
  const Mean& mean = *static_cast<const Mean*>(step.linked.parameters);
  const int8_t* const input = static_cast<const int8_t*>(step.input);
  int8_t* output = static_cast<int8_t*>(step.output);
  for (uint32_t i = 0; i < mean.kept[0]; ++i) {
    for (uint32_t j = 0; j < mean.kept[1]; ++j) {
      for (uint32_t k = 0; k < mean.kept[2]; ++k) {
        const int8_t* first = input + i * mean.steps[0] + j * mean.steps[1] + k * mean.steps[2];
        for (uint32_t l = 0; l < mean.kept[3]; ++l, first += mean.steps[3]) {
          const int32_t result = Requantize(Sum(mean, first) - mean.offset, mean.multiplier) + mean.zero_point;
          const int32_t raised = result < INT8_MIN ? INT8_MIN : result;
          *output++ = static_cast<int8_t>(raised > INT8_MAX ? INT8_MAX : raised);
        }
      }
    }
  }
}

/// The multiplier divided by `count`, with as many more bits as that leaves unused: as in TFLM.
Multiplier Divided(const Multiplier& multiplier, uint32_t count) {
  int32_t bits = 31 + multiplier.shift;
  for (int32_t i = 0; i < bits; ++i) {
    if (count >> i <= 1) bits = i;
  }
  const auto fraction = static_cast<uint32_t>(multiplier.fraction);
  uint32_t quotient = fraction / count;
  uint32_t remainder = fraction % count;
  for (int32_t i = 0; i < bits; ++i) {
    remainder *= 2;
    const uint32_t bit = remainder >= count ? 1 : 0;
    remainder -= bit * count;
    quotient = quotient * 2 + bit;
  }
  return {static_cast<int32_t>(quotient), multiplier.shift - bits};
}

bool Prepare(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Mean counted = {};
  Mean& mean = builder->ParametersOf(step, &counted);
  Shape from;
  int32_t axes[4] = {};
  const uint32_t count = builder->ReadNumbers(op, 1, 4, axes);
  if (count == 0 || !builder->ReadShape(input.tensor, &from)) return false;
  Mean made = {};
  uint32_t step_bytes = 1;
  for (uint32_t axis = 4; axis-- > 0;) {
    made.kept[axis] = from.sizes[axis];
    made.reduced[axis] = 1;
    made.steps[axis] = step_bytes;
    step_bytes *= from.sizes[axis];
  }
  const auto rank = static_cast<int32_t>(from.rank);
  for (uint32_t i = 0; i < count; ++i) {
    if (axes[i] < -rank || axes[i] >= rank) return builder->Refuse("axes");
    const int32_t axis = 4 - rank + (axes[i] < 0 ? axes[i] + rank : axes[i]);
    made.kept[axis] = 1;
    made.reduced[axis] = from.sizes[axis];
  }
  const uint32_t elements = made.reduced[0] * made.reduced[1] * made.reduced[2] * made.reduced[3];
  if (output.tensor.elements * elements != input.tensor.elements) return false;
  const Multiplier ratio = Quotient(input.quant.scale, 1.0F, output.quant.scale);
  made.multiplier = Divided(ratio, elements);
  made.offset = static_cast<int32_t>(elements) * input.quant.zero_point;
  made.zero_point = output.quant.zero_point;
  // The sum is below 2^8 times the elements: it must not overflow in a left shift.
  if (ratio.shift > 22 || (made.multiplier.shift > 0 && elements >> (22 - made.multiplier.shift) != 0)) {
    return builder->Refuse("scales");
  }
  mean = made;
  step->linked.run = Run;
  return true;
}

}  // namespace

const Kernel mean_kernel = {BuiltinOperator::kMean, Prepare};

}  // namespace hil::int8
