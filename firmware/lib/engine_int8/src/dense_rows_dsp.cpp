// Cortex-M4 and M7: two products in one instruction (SMLAD).
#include "dense_rows.h"

#if defined(HIL_DENSE_ROWS_DSP)

namespace hil::int8 {

namespace {

/// Bytes 0 and 2 of `word`, sign-extended to 16 bits each; then bytes 1 and 3.
inline uint32_t EvenBytes(uint32_t word) {
  uint32_t pair;
  __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(word));
  return pair;
}
inline uint32_t OddBytes(uint32_t word) {
  uint32_t pair;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
  return pair;
}
/// The same, added to the two 16-bit numbers in `offset`.
inline uint32_t EvenBytesPlus(uint32_t offset, uint32_t word) {
  uint32_t pair;
  __asm__("sxtab16 %0, %1, %2" : "=r"(pair) : "r"(offset), "r"(word));
  return pair;
}
inline uint32_t OddBytesPlus(uint32_t offset, uint32_t word) {
  uint32_t pair;
  __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(pair) : "r"(offset), "r"(word));
  return pair;
}
inline int32_t MultiplyAccumulate(uint32_t a, uint32_t b, int32_t sum) {
  int32_t result;
  __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}
inline uint32_t Load(const int8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof word);  // one load: these processors read unaligned words
  return word;
}

struct InputPair {
  uint32_t even;  // elements 0 and 2 of four, less the zero point
  uint32_t odd;   // 1 and 3
};

/// Input for columns that are no multiple of four: the last four columns once more, with zeros for those that were counted.
InputPair Tail(const int8_t* last_four, uint32_t offset, uint32_t new_columns) {
  const uint32_t word = Load(last_four);
  InputPair pair = {EvenBytesPlus(offset, word), OddBytesPlus(offset, word)};
  constexpr uint32_t kUpper = 0xFFFF0000u;
  pair.even &= new_columns == 1 ? 0 : kUpper;
  pair.odd &= new_columns == 3 ? ~0u : kUpper;
  return pair;
}

/// Returns how many pairs `pairs` holds.
void ExpandInput(const FullyConnectedLayer& layer, const int8_t* input, InputPair* pairs) {
  const uint32_t negated = static_cast<uint16_t>(-layer.input_zero_point);
  const uint32_t offset = negated << 16 | negated;
  const int8_t* const end = input + layer.columns;
  for (; input + 4 <= end; input += 4, ++pairs) {
    const uint32_t word = Load(input);
    *pairs = {EvenBytesPlus(offset, word), OddBytesPlus(offset, word)};
  }
  if (input != end) {
    *pairs = Tail(end - 4, offset, static_cast<uint32_t>(end - input));
  }
}

inline void FourColumns(const int8_t* a, const int8_t* b, const InputPair& x, int32_t* sum_a, int32_t* sum_b) {
  const uint32_t word_a = Load(a);
  const uint32_t word_b = Load(b);
  *sum_a = MultiplyAccumulate(EvenBytes(word_a), x.even, *sum_a);
  *sum_b = MultiplyAccumulate(EvenBytes(word_b), x.even, *sum_b);
  *sum_a = MultiplyAccumulate(OddBytes(word_a), x.odd, *sum_a);
  *sum_b = MultiplyAccumulate(OddBytes(word_b), x.odd, *sum_b);
}

}  // namespace

void DenseRows(const FullyConnectedLayer& layer, const int8_t* input, int16_t* scratch, int8_t* output) {
  InputPair* const pairs = reinterpret_cast<InputPair*>(scratch);
  ExpandInput(layer, input, pairs);
  const uint32_t columns = layer.columns;
  const uint32_t in_fours = columns & ~3u;
  const int32_t one_and_zero_point = 1 + 2 * layer.output_zero_point;
  for (uint32_t row = 0; row < layer.rows; row += 2) {  // two rows share the loading of the input
    const bool pair = row + 1 < layer.rows;
    const int8_t* a = layer.weights + row * columns;
    const int8_t* b = pair ? a + columns : a;
    int32_t sum_a = BiasOf(layer, row);
    int32_t sum_b = pair ? BiasOf(layer, row + 1) : 0;
    const InputPair* x = pairs;
    const int8_t* const end = a + in_fours;
    if ((in_fours & 4) != 0) {
      FourColumns(a, b, *x++, &sum_a, &sum_b);
      a += 4;
      b += 4;
    }
    while (a != end) {
      FourColumns(a, b, x[0], &sum_a, &sum_b);
      FourColumns(a + 4, b + 4, x[1], &sum_a, &sum_b);
      a += 8;
      b += 8;
      x += 2;
    }
    if (in_fours != columns) {
      const uint32_t back = 4 - (columns - in_fours);
      FourColumns(a - back, b - back, *x, &sum_a, &sum_b);
    }
    output[row] = FinishRow(layer, row, sum_a, one_and_zero_point);
    if (pair) {
      output[row + 1] = FinishRow(layer, row + 1, sum_b, one_and_zero_point);
    }
  }
}

}  // namespace hil::int8

#endif
