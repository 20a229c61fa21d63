// The fixed-point arithmetic of TensorFlow Lite Micro, bit-exact.
#pragma once

#include <cstdint>

namespace hil::int8 {

/// A positive real number as fixed point: value = fraction / 2^31 * 2^shift, fraction in [2^30, 2^31) or 0.
struct Multiplier {
  int32_t fraction = 0;
  int32_t shift = 0;
};

/// (a * b) / 2^31 rounded half up. Overflows if both are INT32_MIN.
int32_t MultiplyHigh(int32_t a, int32_t b);

/// value / 2^exponent rounded half away from zero; `exponent` 0 to 31.
int32_t ShiftRight(int32_t value, int32_t exponent);

/// value * multiplier, rounded twice: after the product and after the shift. A left shift wraps.
int32_t Requantize(int32_t value, const Multiplier& multiplier);

/// True for a valid scale: finite, positive, not denormal.
bool IsScale(float scale);

/// The quotient a * b / c of three scales in double precision (rounded to even once), then as fixed point (rounded half away from
/// zero): what TFLM computes with `double`, here in integers, because the Cortex-M4 has no double-precision FPU. Below 2^-32 the
/// result is 0; a `shift` above 30 is beyond the arithmetic.
Multiplier Quotient(float a, float b, float c);

/// The same for a single scale times 2^exponent, without flushing small ones to zero.
Multiplier ScaleTimesPowerOfTwo(float scale, int32_t exponent);

/// exp(a) as Q31 (value / 2^31) for a <= 0 as Q5.26.
int32_t ExpOfNegativeQ31(int32_t a);

/// 1 / (1 + a) as Q31 for a in [0, 1] as Q31.
int32_t OneOverOnePlusQ31(int32_t a);

/// Result in Q31, argument in Q4.27 (value / 2^27).
int32_t TanhQ31(int32_t argument_q27);
int32_t LogisticQ31(int32_t argument_q27);

}  // namespace hil::int8
