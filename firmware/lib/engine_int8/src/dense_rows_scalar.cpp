// Cortex-M0+ and M3: one product in one instruction, loads of one byte with sign (LDRSB). Four rows share the load of an input
// element. The M0+ adds a product in a second instruction, advances an address in a third, and has no upper half of a product.
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_SCALAR)

#if defined(__OPTIMIZE_SIZE__) || !defined(__OPTIMIZE__)
#error "compile this file with -O2: with -Os and -O0 the compiler lends no high registers"
#endif

namespace hil::int8 {

namespace {

// clang-format off
#if defined(__ARM_ARCH_6M__)
constexpr bool kAddressesAreEnds = true;  // to which a negative index is added
#define HIL_LOAD(to, address) "ldrsb  " to ", [" address ", %[index]]  \n\t"
#define HIL_ADD_PRODUCT(sum) "muls   r7, r6, r7                    \n\t" \
                             "add    " sum ", " sum ", r7          \n\t"
#define HIL_AFTER_COLUMN     "adds   %[index], #1                  \n\t"
#define HIL_AFTER(columns)
#else
constexpr bool kAddressesAreEnds = false;
#define HIL_LOAD(to, address) "ldrsb  " to ", [" address "], #1        \n\t"
#define HIL_ADD_PRODUCT(sum) "mla    " sum ", r6, r7, " sum "      \n\t"
#define HIL_AFTER_COLUMN
#define HIL_AFTER(columns)   "adds   %[index], #" columns "        \n\t"
#endif
#define HIL_PRODUCT(address, sum) HIL_LOAD("r7", address) HIL_ADD_PRODUCT(sum)
#define HIL_COLUMN                \
  HIL_LOAD("r6", "%[input]")      \
  HIL_PRODUCT("%[a]", "%[sum_a]") \
  HIL_PRODUCT("%[b]", "%[sum_b]") \
  HIL_PRODUCT("%[c]", "%[sum_c]") \
  HIL_PRODUCT("%[d]", "%[sum_d]") \
  HIL_AFTER_COLUMN
// clang-format on

/// sums[0 to 3] += products of an even number of columns, at least two, of four rows of weights, `stride` apart; `x` and `w`
/// point at the first of them, or behind the last one. Addresses and factors take all low registers, so that the sums lie in high
/// ones, which the ADD of the M0+ reaches. The M0+ takes 18 cycles a column, 4.5 a product.
HIL_ALWAYS_INLINE inline void AddPairsOfColumns(uint32_t columns, const int8_t* x, const int8_t* w, uint32_t stride,
                                                int32_t* sums) {
  register int32_t index __asm__("r0") = -static_cast<int32_t>(columns);
  register const int8_t* input __asm__("r1") = x;
  register const int8_t* a __asm__("r2") = w;
  register const int8_t* b __asm__("r3") = a + stride;
  register const int8_t* c __asm__("r4") = b + stride;
  register const int8_t* d __asm__("r5") = c + stride;
  register int32_t sum_a __asm__("r8") = sums[0];
  register int32_t sum_b __asm__("r9") = sums[1];
  register int32_t sum_c __asm__("r10") = sums[2];
  register int32_t sum_d __asm__("r12") = sums[3];
  __asm__ volatile(
      ".syntax unified                 \n\t"
      "lsls   r6, %[index], #30        \n\t"  // no multiple of four: two columns first
      "beq    1f                       \n\t"  //
      HIL_COLUMN HIL_COLUMN HIL_AFTER("2")     //
      "beq    2f                       \n\t"
      "1:                              \n\t"  //
      HIL_COLUMN HIL_COLUMN HIL_COLUMN HIL_COLUMN HIL_AFTER("4")
      "bmi    1b                       \n\t"
      "2:                              \n\t"
      : [index] "+l"(index), [input] "+l"(input), [a] "+l"(a), [b] "+l"(b), [c] "+l"(c), [d] "+l"(d), [sum_a] "+h"(sum_a),
        [sum_b] "+h"(sum_b), [sum_c] "+h"(sum_c), [sum_d] "+h"(sum_d)
      :
      : "r6", "r7", "cc", "memory");
  sums[0] = sum_a;
  sums[1] = sum_b;
  sums[2] = sum_c;
  sums[3] = sum_d;
}

/// Sums of all rows, which begin with their folded bias.
__attribute__((noinline)) void Sums(const FullyConnectedLayer& layer, const int8_t* input, int32_t* sums) {
  const uint32_t columns = layer.columns;
  const uint32_t odd = columns % 2;
  const uint32_t first = kAddressesAreEnds ? columns : odd;
  const int32_t* bias = layer.folded_bias;
  const int8_t* w = layer.weights;
  uint32_t left = layer.rows;
  for (; left >= 4; left -= 4) {
    std::memcpy(sums, bias, 4 * sizeof *sums);
    for (uint32_t i = 0; odd != 0 && i < 4; ++i) sums[i] += w[i * columns] * input[0];
    AddPairsOfColumns(columns - odd, input + first, w + first, columns, sums);
    w += 4 * columns;
    bias += 4;
    sums += 4;
  }
  for (; left != 0; --left) {
    int32_t sum = *bias++;
    for (uint32_t i = 0; i < columns; ++i) sum += *w++ * input[i];
    *sums++ = sum;
  }
}

#if defined(__ARM_ARCH_6M__)

/// Finish() clamped to the activation's range, which is within that of int8: 44 cycles a row. The upper half of the product comes
/// from four of 16 bits. With the lower half of the sum signed, the middle one stays within 32 bits, and its last bits are all
/// that rounding down loses.
__attribute__((noinline)) void FinishAndClamp(const FullyConnectedLayer& layer, const int32_t* layer_sums, int8_t* layer_output) {
  register const int32_t* sums __asm__("r0") = layer_sums;
  register const int32_t* fractions __asm__("r1") = layer.fractions;
  register const int8_t* shifts __asm__("r2") = layer.shifts;
  register int8_t* output __asm__("r3") = layer_output;
  register int32_t one_and_zero_point __asm__("r8") = 1 + 2 * layer.output_zero_point;
  register int32_t half __asm__("r9") = 1 << 14;
  register int32_t low __asm__("r10") = layer.low;
  register int32_t high __asm__("r11") = layer.high;
  register const int8_t* end __asm__("r12") = layer_output + layer.rows;
  __asm__ volatile(
      ".syntax unified              \n\t"
      "1:                           \n\t"
      "ldmia  %[sums]!, {r4}        \n\t"
      "ldmia  %[fractions]!, {r5}   \n\t"
      "sxth   r6, r4                \n\t"  // lower half of the sum
      "subs   r4, r4, r6            \n\t"
      "asrs   r4, r4, #16           \n\t"  // upper half
      "mov    lr, r4                \n\t"
      "uxth   r7, r5                \n\t"  // lower half of the fraction
      "asrs   r5, r5, #16           \n\t"  // upper half
      "muls   r4, r7, r4            \n\t"
      "muls   r7, r6, r7            \n\t"
      "asrs   r7, r7, #16           \n\t"
      "adds   r4, r4, r7            \n\t"
      "muls   r6, r5, r6            \n\t"
      "adds   r4, r4, r6            \n\t"
      "add    r4, %[half]           \n\t"
      "asrs   r4, r4, #15           \n\t"
      "mov    r6, lr                \n\t"
      "muls   r5, r6, r5            \n\t"
      "lsls   r5, r5, #1            \n\t"
      "adds   r4, r4, r5            \n\t"
      "asrs   r5, r4, #31           \n\t"
      "adds   r4, r4, r5            \n\t"
      "ldrb   r5, [%[shifts]]       \n\t"  // not negative where the layer fits
      "adds   %[shifts], #1         \n\t"
      "asrs   r4, r4, r5            \n\t"
      "add    r4, %[one]            \n\t"
      "asrs   r4, r4, #1            \n\t"
      "cmp    r4, %[low]            \n\t"
      "bge    2f                    \n\t"
      "mov    r4, %[low]            \n\t"
      "2:                           \n\t"
      "cmp    r4, %[high]           \n\t"
      "ble    3f                    \n\t"
      "mov    r4, %[high]           \n\t"
      "3:                           \n\t"
      "strb   r4, [%[output]]       \n\t"
      "adds   %[output], #1         \n\t"
      "cmp    %[output], %[end]     \n\t"
      "bne    1b                    \n\t"
      : [sums] "+l"(sums), [fractions] "+l"(fractions), [shifts] "+l"(shifts), [output] "+l"(output)
      : [one] "h"(one_and_zero_point), [half] "h"(half), [low] "h"(low), [high] "h"(high), [end] "h"(end)
      : "r4", "r5", "r6", "r7", "lr", "cc", "memory");
}

#endif

}  // namespace

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, void* scratch, int8_t* output) {
  int32_t* const sums = static_cast<int32_t*>(scratch);
  Sums(layer, input, sums);
#if defined(__ARM_ARCH_6M__)
  FinishAndClamp(layer, sums, output);
#else
  Finish(layer, sums, output);
#endif
}

}  // namespace hil::int8

#endif
