// Cortex-M4 and M7: two products in one instruction (SMLAD).
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_DSP)

namespace hil::int8 {

namespace {

constexpr uint32_t kBlock = 8;  // columns, from the last one on: the first block begins before the row, with zeros for its input

/// Rows that are processed in pairs, as SumPairs() reads it: in this order.
struct PairsOfRows {
  const int32_t* fractions;
  const int8_t* shifts;
  int8_t* output;
  uint32_t pairs;
  int32_t one_and_zero_point;
  const int16_t* input;    // less its zero point; of four elements the even ones, then the odd ones
  uint32_t blocks;         // first these,
  uint32_t double_blocks;  // then these, whose weights are aligned
  uint32_t columns;
  uint32_t before;  // columns of the first block before the row: inside the file, whose weights follow their count
};

// clang-format off
/// Two products of each half of `weights`, four in all, with the input of `even` and `odd`.
#define HIL_FOUR_PRODUCTS(sum, weights, even, odd) \
  "sxtb16 r12, " weights "                    \n\t" \
  "sxtb16 " weights ", " weights ", ror #8    \n\t" \
  "smlad  " sum ", r12, " even ", " sum "     \n\t" \
  "smlad  " sum ", " weights ", " odd ", " sum "\n\t"
#define HIL_ROW_OF_BLOCK(sum) HIL_FOUR_PRODUCTS(sum, "r10", "r6", "r7") HIL_FOUR_PRODUCTS(sum, "r11", "r8", "r9")
#define HIL_ALIGNED_BLOCK          \
  "ldmia  r0!, {r6-r9}        \n\t" \
  "ldrd   r10, r11, [r1], #8  \n\t" \
  HIL_ROW_OF_BLOCK("r3")           \
  "ldrd   r10, r11, [r2], #8  \n\t" \
  HIL_ROW_OF_BLOCK("r4")
#define HIL_BLOCK                  \
  "ldmia  r0!, {r6-r9}        \n\t" \
  "ldr    r10, [r1], #4       \n\t" \
  "ldr    r11, [r1], #4       \n\t" \
  HIL_ROW_OF_BLOCK("r3")           \
  "ldr    r10, [r2], #4       \n\t" \
  "ldr    r11, [r2], #4       \n\t" \
  HIL_ROW_OF_BLOCK("r4")
/// FinishRow() with the address of shifts in r6 and that of the output in r7.
#define HIL_FINISH(sum, fraction)         \
  "ldrsb  r0, [r6], #1               \n\t" \
  "lsls   " sum ", " sum ", #1       \n\t" \
  "smmulr " sum ", " sum ", " fraction "\n\t" \
  "add    " sum ", " sum ", " sum ", asr #31\n\t" \
  "asrs   " sum ", " sum ", r0       \n\t" \
  "add    " sum ", " sum ", r9       \n\t" \
  "ssat   " sum ", #8, " sum ", asr #1\n\t" \
  "strb   " sum ", [r7], #1          \n\t"
// clang-format on

/// All pairs of rows. The loops take every register: input in r0, weights of both rows in r1 and r2, sums in r3 and r4, what is
/// left in r5, bias in lr, the fields of PairsOfRows on the stack.
__attribute__((naked, noinline)) void SumPairs(const PairsOfRows*, const int8_t* /*weights*/, const uint8_t* /*bias*/) {
  __asm__(
      "push   {r4-r11, lr}         \n\t"
      "mov    lr, r2               \n\t"
      "mov    r2, r1               \n\t"
      "ldmia  r0, {r3-r12}         \n\t"
      "push   {r3-r12}             \n\t"
      "1:                          \n\t"
      "ldrd   r3, r4, [sp, #32]    \n\t"  // columns, before
      "ldrd   r0, r5, [sp, #20]    \n\t"  // input, blocks
      "subs   r1, r2, r4           \n\t"
      "adds   r2, r1, r3           \n\t"
      "ldrd   r3, r4, [lr], #8     \n\t"
      "cbz    r5, 3f               \n\t"
      "2:                          \n\t"  //
      HIL_BLOCK
      "subs   r5, #1               \n\t"
      "bne    2b                   \n\t"
      "3:                          \n\t"
      "ldr    r5, [sp, #28]        \n\t"  // double_blocks
      "cbnz   r5, 5f               \n\t"
      "4:                          \n\t"
      "ldmia  sp, {r5-r9}          \n\t"
      "ldrd   r10, r11, [r5], #8   \n\t"  //
      HIL_FINISH("r3", "r10") HIL_FINISH("r4", "r11")
      "subs   r8, #1               \n\t"
      "stmia  sp, {r5-r8}          \n\t"
      "bne    1b                   \n\t"
      "add    sp, #40              \n\t"
      "pop    {r4-r11, pc}         \n\t"
      "5:                          \n\t"  //
      HIL_ALIGNED_BLOCK HIL_ALIGNED_BLOCK
      "subs   r5, #1               \n\t"
      "bne    5b                   \n\t"
      "b      4b                   \n\t");
}

/// Fills `expanded` with whole blocks of the input plus `offset`; what lies before its first element becomes zeros.
HIL_ALWAYS_INLINE inline void Expand(const int8_t* input, uint32_t before, uint32_t blocks, uint32_t offset, int16_t* expanded) {
  const int8_t* from = input - before;
  int16_t* to = expanded;
  for (; blocks != 0; --blocks) {
    uint32_t low, high, even, odd;
    __asm__ volatile(
        "ldr     %[low], [%[from]], #4          \n\t"  // at any address: these processors support it
        "ldr     %[high], [%[from]], #4         \n\t"
        "sxtab16 %[even], %[offset], %[low]     \n\t"
        "sxtab16 %[odd], %[offset], %[low], ror #8\n\t"
        "strd    %[even], %[odd], [%[to]], #8   \n\t"
        "sxtab16 %[even], %[offset], %[high]    \n\t"
        "sxtab16 %[odd], %[offset], %[high], ror #8\n\t"
        "strd    %[even], %[odd], [%[to]], #8"
        : [from] "+r"(from), [to] "+r"(to), [low] "=&r"(low), [high] "=&r"(high), [even] "=&r"(even), [odd] "=&r"(odd)
        : [offset] "r"(offset)
        : "memory");
  }
  for (uint32_t i = 0; i < before; ++i) expanded[(i & 4) | (i & 1) << 1 | (i >> 1 & 1)] = 0;
}

}  // namespace

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, void* scratch, int8_t* output) {
  const uint32_t columns = layer.columns;
  const uint32_t before = (0 - columns) % kBlock;
  const uint32_t blocks = (columns + before) / kBlock;
  const uint32_t negated = static_cast<uint16_t>(-layer.input_zero_point);
  int16_t* const expanded = static_cast<int16_t*>(scratch);
  Expand(input, before, blocks, negated << 16 | negated, expanded);
  const bool aligned = (reinterpret_cast<uintptr_t>(layer.weights) | columns) % 4 == 0;
  const uint32_t double_blocks = aligned ? columns / (2 * kBlock) : 0;
  PairsOfRows rows = {layer.fractions,
                      layer.shifts,
                      output,
                      layer.rows / 2,
                      1 + 2 * layer.output_zero_point,
                      expanded,
                      blocks - 2 * double_blocks,
                      double_blocks,
                      columns,
                      before};
  SumPairs(&rows, layer.weights, layer.bias);
  if (layer.rows % 2 == 0) return;
  const uint32_t last_pair = layer.rows - 2;  // repeats a row
  rows.fractions += last_pair;
  rows.shifts += last_pair;
  rows.output += last_pair;
  rows.pairs = 1;
  SumPairs(&rows, layer.weights + last_pair * columns, layer.bias + 4 * last_pair);
}

}  // namespace hil::int8

#endif
