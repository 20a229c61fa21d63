// SOFTMAX over the last dimension, with a table of the exponentials of all differences.
#include <cstring>

#include "builder.h"
#include "engine_int8/fixed_point.h"

namespace hil::int8 {

namespace {

constexpr OptionsType kSoftmaxOptions = {9, 0};
constexpr uint32_t kBeta = 0;
constexpr uint32_t kDifferences = 256;
constexpr int32_t kIntegerBits = 5;      // of a difference times beta
constexpr int32_t kSumBits = 12;         // before the point of a sum
constexpr uint32_t kMaxDepth = 1 << 12;  // the sums' limit
constexpr int32_t kTooSmall = -1;        // what TFLM does not add

struct Softmax {
  uint32_t depth;
  const int32_t* exponentials;  // of 0, -1, -2, ... steps as Q31
};

int32_t LeadingZeros(uint32_t value) {
  int32_t zeros = 0;
  for (; (value & 0x80000000u) == 0; value <<= 1) ++zeros;
  return zeros;
}

void Run(const Step& step, void*) {
  const Softmax& softmax = *static_cast<const Softmax*>(step.linked.parameters);
  const int8_t* input = static_cast<const int8_t*>(step.input);
  int8_t* output = static_cast<int8_t*>(step.output);
  for (uint32_t row = 0; row < step.elements / softmax.depth; ++row) {
    int32_t largest = INT8_MIN;
    for (uint32_t i = 0; i < softmax.depth; ++i) largest = input[i] > largest ? input[i] : largest;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < softmax.depth; ++i) {
      const int32_t exponential = softmax.exponentials[largest - input[i]];
      if (exponential != kTooSmall) sum += static_cast<uint32_t>(ShiftRight(exponential, kSumBits));
    }
    const int32_t zeros = LeadingZeros(sum);
    const int32_t reciprocal = OneOverOnePlusQ31(static_cast<int32_t>((sum << zeros) - (1u << 31)));
    for (uint32_t i = 0; i < softmax.depth; ++i) {
      const int32_t exponential = softmax.exponentials[largest - *input++];
      const int32_t share =
          exponential == kTooSmall ? 0 : ShiftRight(MultiplyHigh(reciprocal, exponential), kSumBits - zeros + 23);
      *output++ = static_cast<int8_t>((share > 255 ? 255 : share) + INT8_MIN);
    }
  }
}

/// Scale of the input times beta, for differences with kIntegerBits before the point; saturated as in TFLM.
Multiplier ScaleOfDifferences(float scale, float beta) {
  Multiplier multiplier = Quotient(scale, beta, 1.0F);
  multiplier.shift += 31 - kIntegerBits;
  if (multiplier.shift > 31) multiplier = {INT32_MAX, 31};
  return multiplier;
}

bool Prepare(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Softmax counted = {};
  Softmax& softmax = builder->ParametersOf(step, &counted);
  const uint32_t depth = input.tensor.last_dimension;
  if (output.tensor.last_dimension != depth || output.tensor.elements != input.tensor.elements || depth >= kMaxDepth)
    return false;
  const uint32_t options = builder->model().OptionsOf(op, kSoftmaxOptions);
  const uint32_t bits = builder->Number(options, kBeta);
  float beta;
  std::memcpy(&beta, &bits, sizeof beta);
  if (!IsScale(beta) || !SameQuant(output.quant, {1.0F / 256, INT8_MIN})) return builder->Refuse("scales");
  const Multiplier multiplier = ScaleOfDifferences(input.quant.scale, beta);
  if (multiplier.shift < 1 || multiplier.fraction == 0) return builder->Refuse("scales");
  const uint32_t radius = (31u << (31 - kIntegerBits)) >> multiplier.shift;
  int32_t* const exponentials = builder->cursor().Take<int32_t>(kDifferences);
  softmax = {depth, exponentials};
  for (uint32_t i = 0; exponentials != nullptr && i < kDifferences; ++i) {
    const int32_t difference = i > radius ? 0 : -static_cast<int32_t>(i);
    exponentials[i] = i > radius ? kTooSmall : ExpOfNegativeQ31(Requantize(difference, multiplier));
  }
  step->linked.run = Run;
  return true;
}

}  // namespace

const Kernel softmax_kernel = {BuiltinOperator::kSoftmax, Prepare};

}  // namespace hil::int8
