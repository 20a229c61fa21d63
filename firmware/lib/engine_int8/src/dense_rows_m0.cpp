// Cortex-M0+: one product an instruction (MULS), loads of one byte with sign (LDRSB) in two cycles, no instruction for the upper
// half of a product. Four rows share the load of an input element.
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_M0)

#if defined(__OPTIMIZE_SIZE__) || !defined(__OPTIMIZE__)
#error "compile this file with -O2: with -Os and -O0 the compiler lends no high registers"
#endif

namespace hil::int8 {

namespace {

/// sums[0 to 3] += products of an even number of columns of four rows, whose weights end at `a`, `b`, `c`, `d`; `x` is the end of
/// the input. Pointers and factors take all low registers, so that the sums lie in high ones, which ADD reaches: 18 cycles a
/// column, 4.5 a product.
HIL_ALWAYS_INLINE inline void AddPairsOfColumns(int32_t columns, const int8_t* x, const int8_t* ends_a, const int8_t* ends_b,
                                                const int8_t* ends_c, const int8_t* ends_d, int32_t* sums) {
  register int32_t index __asm__("r0") = -columns;
  register const int8_t* input __asm__("r1") = x;
  register const int8_t* a __asm__("r2") = ends_a;
  register const int8_t* b __asm__("r3") = ends_b;
  register const int8_t* c __asm__("r4") = ends_c;
  register const int8_t* d __asm__("r5") = ends_d;
  register int32_t sum_a __asm__("r8") = sums[0];
  register int32_t sum_b __asm__("r9") = sums[1];
  register int32_t sum_c __asm__("r10") = sums[2];
  register int32_t sum_d __asm__("r12") = sums[3];
// clang-format off
#define HIL_PRODUCT(row, sum)             \
  "ldrsb  r7, [" row ", %[index]]    \n\t" \
  "muls   r7, r6, r7                 \n\t" \
  "add    " sum ", " sum ", r7       \n\t"
#define HIL_COLUMN                        \
  "ldrsb  r6, [%[input], %[index]]   \n\t" \
  HIL_PRODUCT("%[a]", "%[sum_a]")         \
  HIL_PRODUCT("%[b]", "%[sum_b]")         \
  HIL_PRODUCT("%[c]", "%[sum_c]")         \
  HIL_PRODUCT("%[d]", "%[sum_d]")         \
  "adds   %[index], #1               \n\t"
  // clang-format on
  __asm__ volatile(
      ".syntax unified                 \n\t"
      "lsls   r6, %[index], #30        \n\t"  // an even number that is no multiple of four: two columns first
      "beq    1f                       \n\t"  //
      HIL_COLUMN HIL_COLUMN                   //
      "beq    2f                       \n\t"
      "1:                              \n\t"  //
      HIL_COLUMN HIL_COLUMN HIL_COLUMN HIL_COLUMN
      "bmi    1b                       \n\t"
      "2:                              \n\t"
      : [index] "+l"(index), [sum_a] "+h"(sum_a), [sum_b] "+h"(sum_b), [sum_c] "+h"(sum_c), [sum_d] "+h"(sum_d)
      : [input] "l"(input), [a] "l"(a), [b] "l"(b), [c] "l"(c), [d] "l"(d)
      : "r6", "r7", "cc", "memory");
#undef HIL_COLUMN
#undef HIL_PRODUCT
  sums[0] = sum_a;
  sums[1] = sum_b;
  sums[2] = sum_c;
  sums[3] = sum_d;
}

/// Sums of all rows, which begin with their folded bias; the last group may write three more.
__attribute__((noinline)) void Sums(const FullyConnectedLayer& layer, const int8_t* input, int32_t* sums) {
  const int32_t columns = static_cast<int32_t>(layer.columns);
  const int32_t odd = columns & 1;
  const int8_t* const input_end = input + columns;
  const int8_t* a = layer.weights + columns;
  for (uint32_t left = layer.rows;;) {
    // Where fewer than four rows are left, the last one is repeated.
    const int8_t* const b = left > 1 ? a + columns : a;
    const int8_t* const c = left > 2 ? b + columns : b;
    const int8_t* const d = left > 3 ? c + columns : c;
    if (odd != 0) {
      const int32_t x = input[0];
      sums[0] += a[-columns] * x;
      sums[1] += b[-columns] * x;
      sums[2] += c[-columns] * x;
      sums[3] += d[-columns] * x;
    }
    AddPairsOfColumns(columns - odd, input_end, a, b, c, d, sums);
    if (left <= 4) return;
    left -= 4;
    a = d + columns;
    sums += 4;
  }
}

/// FinishRow() for all rows, clamped to the activation's range, which is within that of int8: 44 cycles a row. The product is
/// that of MultiplyHighFast().
__attribute__((noinline)) void Finish(const FullyConnectedLayer& layer, const int32_t* layer_sums, int8_t* layer_output) {
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

}  // namespace

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, int16_t* scratch, int8_t* output) {
  int32_t* const sums = reinterpret_cast<int32_t*>(scratch);
  std::memcpy(sums, layer.folded_bias, 4 * layer.rows);
  Sums(layer, input, sums);
  Finish(layer, sums, output);
}

}  // namespace hil::int8

#endif
