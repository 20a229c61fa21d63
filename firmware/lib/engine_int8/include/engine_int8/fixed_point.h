// The fixed-point arithmetic of TensorFlow Lite Micro, to the last bit.
#pragma once

#include <cstdint>

namespace hil::int8 {

/// A positive real number as fixed point: value = fraction / 2^31 * 2^shift, fraction in [2^30, 2^31) or 0.
struct Multiplier {
  int32_t fraction = 0;
  int32_t shift = 0;
};

/// (a * b) / 2^31 rounded half up; the one product that does not fit, INT32_MIN squared, saturates.
inline int32_t MultiplyHigh(int32_t a, int32_t b) {
  if (a == INT32_MIN && b == INT32_MIN) {
    return INT32_MAX;
  }
  return static_cast<int32_t>((static_cast<int64_t>(a) * b + (int64_t{1} << 30)) >> 31);
}

/// value / 2^exponent rounded half away from zero; `exponent` 0 to 31.
inline int32_t ShiftRight(int32_t value, int32_t exponent) {
  const int32_t mask = static_cast<int32_t>((uint32_t{1} << exponent) - 1);
  const int32_t threshold = (mask >> 1) + (value < 0 ? 1 : 0);
  return (value >> exponent) + ((value & mask) > threshold ? 1 : 0);
}

/// value * multiplier, rounded twice: after the product and after the shift. A left shift wraps as in C on every target.
inline int32_t Requantize(int32_t value, const Multiplier& multiplier) {
  const int32_t left = multiplier.shift > 0 ? multiplier.shift : 0;
  const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(value) << left);
  return ShiftRight(MultiplyHigh(shifted, multiplier.fraction), left - multiplier.shift);
}

/// True for what a scale must be: finite, positive, no denormal.
bool IsScale(float scale);

/// The quotient a * b / c of three scales in double precision (rounded to even once), then as fixed point (rounded half away from
/// zero): what TFLM computes with `double`, here in integers, because no Cortex-M4 has doubles. Below 2^-32 the result is 0;
/// `shift` is above 30 where it does not fit the arithmetic.
Multiplier Quotient(float a, float b, float c);

/// The same for a single scale times 2^exponent, without flushing small ones to zero.
Multiplier ScaleTimesPowerOfTwo(float scale, int32_t exponent);

/// Numbers as Q31: value / 2^31; the argument in Q4.27: value / 2^27.
int32_t TanhQ31(int32_t argument_q27);
int32_t LogisticQ31(int32_t argument_q27);

}  // namespace hil::int8
