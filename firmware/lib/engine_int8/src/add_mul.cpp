// ADD and MUL of two tensors, with broadcasting.
#include "builder.h"
#include "dense_rows.h"
#include "engine_int8/fixed_point.h"
#include "engine_int8/lookup_table.h"
#include "mve.h"

namespace hil::int8 {

namespace {

constexpr OptionsType kAddOptions = {11, 0};
constexpr OptionsType kMulOptions = {21, 0};
constexpr int32_t kLeftShift = 20;  // more bits for the summands
constexpr float kTwoToMinusShift = 1.0F / (1 << kLeftShift);
constexpr int32_t kMaxProductShift = 14;  // products have 17 bits with sign

/// What ADD does to a summand before it adds it: a product, a rounded division by a power of two.
struct Summand {
  int32_t factor;
  int32_t offset;
  int32_t fraction;
  int32_t half;
  int32_t shift;
};

struct Pair {
  uint32_t sizes[4];  // of the output
  uint32_t steps[2][4];
  const int8_t* inputs[2];
  int32_t zero_points[2];
  Multiplier multipliers[2];  // of the summands
  Multiplier multiplier;      // of sum or product
  Summand summands[2];
  int32_t output_zero_point;
  int8_t low;
  int8_t high;
  bool fits;  // the fast arithmetic holds the multiplier
};

/// Inputs and output of one row.
struct Row {
  const int8_t* inputs[2];
  uint32_t steps[2];  // 0: one input for the whole row
  int8_t* output;
  uint32_t count;
};

int32_t Combine(const Pair& pair, bool adds, int32_t a, int32_t b) {
  if (!adds) return Requantize(a * b, pair.multiplier);
  return Requantize(
      Requantize(a * (1 << kLeftShift), pair.multipliers[0]) + Requantize(b * (1 << kLeftShift), pair.multipliers[1]),
      pair.multiplier);
}

template <bool kAdds>
void FinishRowExact(const Pair& pair, const Row& row) {
  for (uint32_t i = 0; i < row.count; ++i) {
    const int32_t a = row.inputs[0][i * row.steps[0]] - pair.zero_points[0];
    const int32_t b = row.inputs[1][i * row.steps[1]] - pair.zero_points[1];
    const int32_t result = Combine(pair, kAdds, a, b) + pair.output_zero_point;
    const int32_t raised = result < pair.low ? pair.low : result;
    row.output[i] = static_cast<int8_t>(raised > pair.high ? pair.high : raised);
  }
}

#if defined(HIL_DENSE_ROWS_MVE)

constexpr int32_t kFactor = 1 << kLeftShift;

HIL_ALWAYS_INLINE inline int32x4_t Scaled(const Summand& summand, int32x4_t values) {
  const int32x4_t products = vqrdmulhq_n_s32(vmlasq_n_s32(values, vdupq_n_s32(summand.factor), summand.offset), summand.fraction);
  return ShiftRightFour(products, vdupq_n_s32(summand.shift - 1));
}

/// A row of a pair that `fits`.
template <bool kAdds>
void FinishRowFast(const Pair& pair_in_memory, const Row& row) {
  const Pair pair = pair_in_memory;  // a copy, because int8 stores may alias the original
  const uint32x4_t numbers = vidupq_n_u32(0, 1);
  const uint32x4_t offsets_a = vmulq_n_u32(numbers, row.steps[0]);
  const uint32x4_t offsets_b = vmulq_n_u32(numbers, row.steps[1]);
  const int8_t* a = row.inputs[0];
  const int8_t* b = row.inputs[1];
  for (uint32_t i = 0; i < row.count; i += 4, a += 4 * row.steps[0], b += 4 * row.steps[1]) {
    const mve_pred16_t left = vctp32q(row.count - i);
    const int32x4_t as = vldrbq_gather_offset_z_s32(a, offsets_a, left);
    const int32x4_t bs = vldrbq_gather_offset_z_s32(b, offsets_b, left);
    const int32x4_t combined = kAdds ? vaddq_s32(Scaled(pair.summands[0], as), Scaled(pair.summands[1], bs))
                                     : vmulq_s32(vsubq_n_s32(as, pair.zero_points[0]), vsubq_n_s32(bs, pair.zero_points[1]));
    const int32x4_t products = vqrdmulhq_n_s32(combined, pair.multiplier.fraction);
    const int32x4_t scaled = ShiftRightFour(products, vdupq_n_s32(-1 - pair.multiplier.shift));
    vstrbq_p_s32(row.output + i, ClampFour(vaddq_n_s32(scaled, pair.output_zero_point), pair.low, pair.high), left);
  }
}

#else

constexpr int32_t kFactor = 1 << (kLeftShift + 1);  // what MultiplyHighFast() takes is doubled

HIL_ALWAYS_INLINE inline int32_t Scaled(const Summand& summand, int32_t value) {
  const int32_t product = MultiplyHighFast(value * summand.factor + summand.offset, summand.fraction);
  return (product + (product >> 31) + summand.half) >> summand.shift;
}

/// A row of a pair that `fits`.
template <bool kAdds>
void FinishRowFast(const Pair& pair_in_memory, const Row& row) {
  const Pair pair = pair_in_memory;  // a copy, because int8 stores may alias the original
  const int32_t one_and_zero_point = 1 + 2 * pair.output_zero_point;
  const int8_t* a = row.inputs[0];
  const int8_t* b = row.inputs[1];
  for (uint32_t i = 0; i < row.count; ++i, a += row.steps[0], b += row.steps[1]) {
    const int32_t combined = kAdds ? Scaled(pair.summands[0], *a) + Scaled(pair.summands[1], *b)
                                   : (*a - pair.zero_points[0]) * (*b - pair.zero_points[1]);
    row.output[i] = FinishRow(2 * combined, pair.multiplier.fraction, -1 - pair.multiplier.shift, one_and_zero_point);
  }
  if (pair.low != INT8_MIN || pair.high != INT8_MAX) Clamp(pair.low, pair.high, row.output, row.count);
}

#endif

template <bool kAdds>
void Run(const Step& step, void*) {
  const Pair& pair = *static_cast<const Pair*>(step.linked.parameters);
  const uint32_t* const sizes = pair.sizes;
  Row row = {{}, {pair.steps[0][3], pair.steps[1][3]}, static_cast<int8_t*>(step.output), sizes[3]};
  for (uint32_t number = 0; number < sizes[0] * sizes[1] * sizes[2]; ++number, row.output += row.count) {
    const uint32_t at[3] = {number / (sizes[1] * sizes[2]), number / sizes[2] % sizes[1], number % sizes[2]};
    for (uint32_t i = 0; i < 2; ++i) {
      row.inputs[i] = pair.inputs[i];
      for (uint32_t axis = 0; axis < 3; ++axis) row.inputs[i] += at[axis] * pair.steps[i][axis];
    }
    if (pair.fits) {
      FinishRowFast<kAdds>(pair, row);
    } else {
      FinishRowExact<kAdds>(pair, row);
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

/// `multiplier` is at most 1/2. One of exactly 1/2 has no shift: twice the factor then makes up for one.
Summand SummandOf(const Multiplier& multiplier, int32_t zero_point) {
  const int32_t shift = multiplier.shift == 0 ? 1 : -multiplier.shift;
  const int32_t factor = kFactor << (multiplier.shift == 0 ? 1 : 0);
  return {factor, -zero_point * factor, multiplier.fraction, 1 << (shift - 1), shift};
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
  made.fits = made.multiplier.shift < 0;
  for (uint32_t i = 0; i < 2; ++i) made.summands[i] = SummandOf(made.multipliers[i], made.zero_points[i]);
  if (!builder->ReadActivation(op, kAdds ? kAddOptions : kMulOptions, output, &made.low, &made.high)) return false;
  pair = made;
  step->linked.run = Run<kAdds>;
  return true;
}

}  // namespace

const Kernel add_kernel = {BuiltinOperator::kAdd, Prepare<true>};
const Kernel mul_kernel = {BuiltinOperator::kMul, Prepare<false>};

}  // namespace hil::int8
