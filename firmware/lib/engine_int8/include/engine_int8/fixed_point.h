// The fixed-point arithmetic of TensorFlow Lite Micro, to the last bit.
#pragma once

#include <cstdint>

namespace hil::int8 {

/// A positive real number as fixed point: value = fraction / 2^31 * 2^shift, fraction in [2^30, 2^31) or 0.
struct Multiplier {
  int32_t fraction = 0;
  int32_t shift = 0;
};

/// (a * b) / 2^31 rounded half up. Not both may be INT32_MIN, the one product that does not fit.
int32_t MultiplyHigh(int32_t a, int32_t b);

/// value / 2^exponent rounded half away from zero; `exponent` 0 to 31.
int32_t ShiftRight(int32_t value, int32_t exponent);

/// value * multiplier, rounded twice: after the product and after the shift. A left shift wraps.
int32_t Requantize(int32_t value, const Multiplier& multiplier);

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
