// Cortex-M4 and M7: two products in one instruction (SMLAD).
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_DSP)

namespace hil::int8 {

namespace {

/// Bytes 0 and 2 of `word`, sign-extended and added to the two 16-bit numbers in `offset`; then bytes 1 and 3.
HIL_ALWAYS_INLINE inline uint32_t EvenBytesPlus(uint32_t offset, uint32_t word) {
  uint32_t pair;
  __asm__("sxtab16 %0, %1, %2" : "=r"(pair) : "r"(offset), "r"(word));
  return pair;
}
HIL_ALWAYS_INLINE inline uint32_t OddBytesPlus(uint32_t offset, uint32_t word) {
  uint32_t pair;
  __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(pair) : "r"(offset), "r"(word));
  return pair;
}
HIL_ALWAYS_INLINE inline uint32_t Load(const int8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof word);  // one load: these processors support unaligned access
  return word;
}

struct InputPair {
  uint32_t even;  // elements 0 and 2 of four, less the zero point
  uint32_t odd;   // 1 and 3
};

/// Input for a number of columns that is not a multiple of four: the last four, with zeros for those already added.
InputPair Tail(const int8_t* last_four, uint32_t offset, uint32_t new_columns) {
  const uint32_t word = Load(last_four);
  InputPair pair = {EvenBytesPlus(offset, word), OddBytesPlus(offset, word)};
  constexpr uint32_t kUpper = 0xFFFF0000u;
  pair.even &= new_columns == 1 ? 0 : kUpper;
  pair.odd &= new_columns == 3 ? ~0u : kUpper;
  return pair;
}

/// Fills `pairs` with the whole input, four elements each.
void ExpandInput(const FullyConnectedLayer& layer, const int8_t* input, InputPair* pairs) {
  const uint32_t negated = static_cast<uint16_t>(-layer.input_zero_point);
  const uint32_t offset = negated << 16 | negated;
  const int8_t* const end = input + layer.columns;
  for (; input + 4 <= end; input += 4, ++pairs) {
    const uint32_t word = Load(input);
    *pairs = {EvenBytesPlus(offset, word), OddBytesPlus(offset, word)};
  }
  if (input != end) *pairs = Tail(end - 4, offset, static_cast<uint32_t>(end - input));
}

/// Four columns of both rows: eight products in eleven instructions. Advances all pointers.
HIL_ALWAYS_INLINE inline void FourColumns(const int8_t*& a, const int8_t*& b, const InputPair*& x, PairOfSums* sums) {
  uint32_t even, odd, word_a, word_b, half;
  __asm__(
      "ldrd   %[even], %[odd], [%[x]], #8\n\t"
      "ldr    %[word_a], [%[a]], #4\n\t"
      "ldr    %[word_b], [%[b]], #4\n\t"
      "sxtb16 %[half], %[word_a]\n\t"
      "sxtb16 %[word_a], %[word_a], ror #8\n\t"
      "smlad  %[sum_a], %[half], %[even], %[sum_a]\n\t"
      "sxtb16 %[half], %[word_b]\n\t"
      "sxtb16 %[word_b], %[word_b], ror #8\n\t"
      "smlad  %[sum_b], %[half], %[even], %[sum_b]\n\t"
      "smlad  %[sum_a], %[word_a], %[odd], %[sum_a]\n\t"
      "smlad  %[sum_b], %[word_b], %[odd], %[sum_b]"
      : [x] "+r"(x), [a] "+r"(a), [b] "+r"(b), [sum_a] "+r"(sums->a), [sum_b] "+r"(sums->b), [even] "=&r"(even), [odd] "=&r"(odd),
        [word_a] "=&r"(word_a), [word_b] "=&r"(word_b), [half] "=&r"(half)
      :
      : "memory");
}

}  // namespace

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, void* scratch, int8_t* output) {
  InputPair* const pairs = static_cast<InputPair*>(scratch);
  ExpandInput(layer, input, pairs);
  const uint32_t sixteens = layer.columns / 16;
  const uint32_t fours = (layer.columns % 16 + 3) / 4;
  const uint32_t back = (0 - layer.columns) % 4;  // of the last four columns, those already added
  ForEachPairOfRows(layer, output, [=](const int8_t* a, const int8_t* b, PairOfSums sums) {
    const InputPair* x = pairs;
    for (uint32_t left = sixteens; left != 0; --left) {
      FourColumns(a, b, x, &sums);
      FourColumns(a, b, x, &sums);
      FourColumns(a, b, x, &sums);
      FourColumns(a, b, x, &sums);
    }
    for (uint32_t left = fours; left != 0; --left) {
      if (left == 1) {
        a -= back;
        b -= back;
      }
      FourColumns(a, b, x, &sums);
    }
    return sums;
  });
}

}  // namespace hil::int8

#endif
