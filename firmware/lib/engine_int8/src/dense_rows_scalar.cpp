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
#define HIL_ADDRESSES(how) [input] how(input), [a] how(a), [b] how(b), [c] how(c), [d] how(d)
#if defined(__ARM_ARCH_6M__)
constexpr bool kAddressesAreEnds = true;  // to which a negative index is added
#define HIL_MOVED
#define HIL_KEPT HIL_ADDRESSES("l")
#define HIL_LOAD(to, address) "ldrsb  " to ", [" address ", %[index]]  \n\t"
#define HIL_ADD_PRODUCT(sum) "muls   r7, r6, r7                    \n\t" \
                             "add    " sum ", " sum ", r7          \n\t"
#define HIL_AFTER_COLUMN     "adds   %[index], #1                  \n\t"
#define HIL_AFTER(columns)
#else
constexpr bool kAddressesAreEnds = false;
#define HIL_MOVED HIL_ADDRESSES("+l"),
#define HIL_KEPT
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

/// sums[0 to 3] += products of an even number of columns, at least two, of four rows of weights, which `w_a` to `w_d` and `x`
/// point at the first of, or behind the last. Addresses and factors take all low registers, so that the sums lie in high
/// ones, which the ADD of the M0+ reaches. The M0+ takes 18 cycles a column, 4.5 a product.
HIL_ALWAYS_INLINE inline void AddPairsOfColumns(uint32_t columns, const int8_t* x, const int8_t* w_a, const int8_t* w_b,
                                                const int8_t* w_c, const int8_t* w_d, int32_t* sums) {
  register int32_t index __asm__("r0") = -static_cast<int32_t>(columns);
  register const int8_t* input __asm__("r1") = x;
  register const int8_t* a __asm__("r2") = w_a;
  register const int8_t* b __asm__("r3") = w_b;
  register const int8_t* c __asm__("r4") = w_c;
  register const int8_t* d __asm__("r5") = w_d;
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
      : [index] "+l"(index), HIL_MOVED [sum_a] "+h"(sum_a), [sum_b] "+h"(sum_b), [sum_c] "+h"(sum_c), [sum_d] "+h"(sum_d)
      : HIL_KEPT
      : "r6", "r7", "cc", "memory");
  sums[0] = sum_a;
  sums[1] = sum_b;
  sums[2] = sum_c;
  sums[3] = sum_d;
}

/// Sums of all rows, which begin with their folded bias; room for a multiple of four.
__attribute__((noinline)) void Sums(const FullyConnectedLayer& layer, const int8_t* input, int32_t* sums) {
  const uint32_t columns = layer.columns;
  const uint32_t odd = columns % 2;
  const uint32_t first = kAddressesAreEnds ? columns : odd;
  std::memcpy(sums, layer.folded_bias, layer.rows * sizeof *sums);
  for (uint32_t i = 0; odd != 0 && i < layer.rows; ++i) sums[i] += layer.weights[i * columns] * input[0];
  const int8_t* const x = input + first;
  const int8_t* a = layer.weights + first;
  uint32_t left = layer.rows;
  for (; left >= 4; left -= 4) {
    const int8_t* const b = a + columns;
    const int8_t* const c = b + columns;
    const int8_t* const d = c + columns;
    AddPairsOfColumns(columns - odd, x, a, b, c, d, sums);
    a = d + columns;
    sums += 4;
  }
  if (left == 0) return;
  // The last row is repeated: the sums beyond it are written and not used.
  const int8_t* const b = left > 1 ? a + columns : a;
  const int8_t* const c = left > 2 ? b + columns : b;
  AddPairsOfColumns(columns - odd, x, a, b, c, c, sums);
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
