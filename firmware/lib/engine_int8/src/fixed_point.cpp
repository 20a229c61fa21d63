#include "engine_int8/fixed_point.h"

#include <cstring>

// Runs when a model is loaded: optimized for size.
#define HIL_OUT_OF_LINE __attribute__((noinline))

namespace hil::int8 {

HIL_OUT_OF_LINE int32_t MultiplyHigh(int32_t a, int32_t b) {
  return static_cast<int32_t>((static_cast<int64_t>(a) * b + (int64_t{1} << 30)) >> 31);
}

HIL_OUT_OF_LINE int32_t ShiftRight(int32_t value, int32_t exponent) {
  const int32_t mask = static_cast<int32_t>((uint32_t{1} << exponent) - 1);
  const int32_t threshold = (mask >> 1) + (value < 0 ? 1 : 0);
  return (value >> exponent) + ((value & mask) > threshold ? 1 : 0);
}

namespace {

constexpr int32_t kOneQ31 = INT32_MAX;
constexpr int32_t kOneQ29 = 1 << 29;

struct Float {
  uint32_t significand;  // 24 bits, the leading one included
  int32_t exponent;      // value = significand * 2^exponent
};

uint32_t Bits(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

Float Unpack(float value) {
  const uint32_t bits = Bits(value);
  return {(bits & 0x7FFFFFu) | 0x800000u, static_cast<int32_t>(bits >> 23) - 150};
}

/// a * 2^exponent, saturated.
int32_t SaturatingShiftLeft(int32_t a, int32_t exponent) {
  const int32_t limit = INT32_MAX >> exponent;
  if (a > limit) return INT32_MAX;
  if (a < -limit - 1) return INT32_MIN;
  return static_cast<int32_t>(static_cast<uint32_t>(a) << exponent);
}

/// exp(a) as Q31 for a in [-1/4, 0) as Q31: Taylor around -1/8.
int32_t ExpOnLastQuarter(int32_t a) {
  constexpr int32_t kExpMinusEighth = 1895147668;
  constexpr int32_t kThird = 715827883;
  const int32_t x = a + (1 << 28);
  const int32_t x2 = MultiplyHigh(x, x);
  const int32_t x3 = MultiplyHigh(x2, x);
  const int32_t x4 = MultiplyHigh(x2, x2);
  const int32_t high_terms = ShiftRight(MultiplyHigh(ShiftRight(x4, 2) + x3, kThird) + x2, 1);
  return kExpMinusEighth + MultiplyHigh(kExpMinusEighth, x + high_terms);
}

/// exp(a) as Q31 for a <= 0 with `fraction_bits` bits behind the point.
int32_t ExpOfNegative(int32_t a, int32_t fraction_bits) {
  // exp(-1/4), exp(-1/2), exp(-1), ... exp(-16) as Q31
  static constexpr int32_t kPowers[] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
  if (a == 0) return kOneQ31;
  const int32_t quarter = 1 << (fraction_bits - 2);
  const int32_t in_last_quarter = (a & (quarter - 1)) - quarter;
  int32_t result = ExpOnLastQuarter(SaturatingShiftLeft(in_last_quarter, 31 - fraction_bits));
  const int32_t quarters = in_last_quarter - a;
  for (int32_t bit = fraction_bits - 2, i = 0; bit < 31; ++bit, ++i) {
    if ((quarters & static_cast<int32_t>(uint32_t{1} << bit)) != 0) result = MultiplyHigh(result, kPowers[i]);
  }
  return result;
}

/// 2 / (1 + a) as Q29 for a in [0, 1] as Q31: Newton's method.
int32_t TwoOverOnePlus(int32_t a) {
  constexpr int32_t k48Over17Q29 = 1515870810;
  constexpr int32_t kMinus32Over17Q29 = -1010580540;
  // The sum is never negative, so rounding half away from zero is rounding half up.
  const int32_t half_denominator = static_cast<int32_t>((int64_t{a} + kOneQ31 + 1) / 2);
  int32_t x = k48Over17Q29 + MultiplyHigh(half_denominator, kMinus32Over17Q29);
  for (int i = 0; i < 3; ++i) {
    const int32_t error = kOneQ29 - MultiplyHigh(half_denominator, x);
    x += SaturatingShiftLeft(MultiplyHigh(x, error), 2);
  }
  return x;
}

}  // namespace

int32_t ExpOfNegativeQ31(int32_t a) { return ExpOfNegative(a, 26); }

int32_t OneOverOnePlusQ31(int32_t a) { return SaturatingShiftLeft(TwoOverOnePlus(a), 1); }

int32_t Requantize(int32_t value, const Multiplier& multiplier) {
  const int32_t left = multiplier.shift > 0 ? multiplier.shift : 0;
  const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(value) << left);
  return ShiftRight(MultiplyHigh(shifted, multiplier.fraction), left - multiplier.shift);
}

bool IsScale(float scale) {
  const uint32_t bits = Bits(scale);
  return bits >= 0x00800000u && bits < 0x7F800000u;
}

Multiplier Quotient(float a, float b, float c) {
  const Float fa = Unpack(a);
  const Float fb = Unpack(b);
  const Float fc = Unpack(c);
  // The product has 48 bits at most and is exact, as in double. Long division, eight bits at a time, of the product and 32 zeros:
  // 55 to 57 bits.
  const uint64_t product = static_cast<uint64_t>(fa.significand) * fb.significand;
  uint32_t remainder = static_cast<uint32_t>(product >> 32);
  uint32_t rest = static_cast<uint32_t>(product);
  uint64_t quotient = 0;
  for (int i = 0; i < 8; ++i) {
    remainder = remainder << 8 | rest >> 24;
    rest <<= 8;
    quotient = quotient << 8 | remainder / fc.significand;
    remainder %= fc.significand;
  }
  int32_t shift = fa.exponent + fb.exponent - fc.exponent + 23;
  uint32_t more = remainder != 0 ? 1 : 0;
  for (; quotient >> 55 != 0; quotient >>= 1, ++shift) more |= static_cast<uint32_t>(quotient) & 1;
  // To 53 bits, half to even (a last bit of 1 stands for any remainder); then to 31 bits, half away from zero.
  quotient |= more;
  quotient = (quotient + 1 + (quotient >> 2 & 1)) >> 2;
  uint32_t fraction = static_cast<uint32_t>((quotient + (1u << 21)) >> 22);
  if (fraction == 0x80000000u) {
    fraction >>= 1;
    ++shift;
  }
  if (shift < -31) return {};
  return {static_cast<int32_t>(fraction), shift};
}

Multiplier ScaleTimesPowerOfTwo(float scale, int32_t exponent) {
  const Float unpacked = Unpack(scale);
  return {static_cast<int32_t>(unpacked.significand << 7), unpacked.exponent + 24 + exponent};
}

int32_t TanhQ31(int32_t argument_q27) {
  if (argument_q27 == 0) return 0;
  const int32_t negative = argument_q27 < 0 ? argument_q27 : -argument_q27;
  // tanh(|x|) = (1 - e) / (1 + e) with e = exp(-2|x|): the doubling moves the point by one bit.
  const int32_t exponential = ExpOfNegative(negative, 26);
  const int32_t result = SaturatingShiftLeft(TwoOverOnePlus(exponential) - kOneQ29, 2);
  return argument_q27 < 0 ? -result : result;
}

int32_t LogisticQ31(int32_t argument_q27) {
  if (argument_q27 == 0) return 1 << 30;
  const int32_t negative = argument_q27 < 0 ? argument_q27 : -argument_q27;
  const int32_t of_positive = SaturatingShiftLeft(TwoOverOnePlus(ExpOfNegative(negative, 27)), 1);
  return argument_q27 < 0 ? kOneQ31 - of_positive : of_positive;
}

}  // namespace hil::int8
