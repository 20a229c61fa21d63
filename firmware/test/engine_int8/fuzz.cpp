// Fuzz target: any bytes as a model. Whatever they are, the engine refuses them or runs them inside its memory.
//
// With libFuzzer: clang++ -fsanitize=fuzzer,address,undefined. With any compiler: -DHIL_STANDALONE_FUZZER adds a main() that
// mutates the files named on its command line:
//
//   fuzz ROUNDS SEED FILE...
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine_int8/int8_engine.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const hil::ByteSpan model = {data, size};
  size_t needed = 0;
  const hil::Status status = hil::Int8Engine::RequiredArena(model, &needed);
  if (status != hil::Status::kOk || needed > (1u << 22)) {
    return 0;
  }
  // On the heap and of exactly the size needed, so that the address sanitizer sees every byte beyond.
  std::vector<uint8_t> arena(needed);
  hil::Int8Engine engine;
  if (engine.Init(model, {arena.data(), needed - 1}) != hil::Status::kArenaTooSmall || engine.detail() != needed ||
      engine.Init(model, {arena.data(), needed}) != hil::Status::kOk) {
    std::abort();  // the need was not known before
  }
  std::vector<int8_t> input(engine.info().n_obs);
  std::vector<int8_t> output(engine.info().n_act);
  for (const int8_t value : {int8_t{-128}, int8_t{0}, int8_t{127}}) {
    std::memset(input.data(), value, input.size());
    engine.Infer(input.data(), output.data());
    hil::TensorView tensor;
    for (uint16_t op = 0; op < engine.info().n_ops; ++op) {
      engine.Tensor(op, &tensor);
    }
  }
  return 0;
}

#if defined(HIL_STANDALONE_FUZZER)

namespace {

uint32_t Next(uint32_t* state) {  // xorshift: the same mutations for the same seed everywhere
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/// Up to four changes: a byte, a 32-bit number of the kind that breaks offset arithmetic, a block copied elsewhere, a cut.
void Mutate(std::vector<uint8_t>* bytes, uint32_t* state) {
  static constexpr uint32_t kNumbers[] = {0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC, 0x40000000, 0xFFFF};
  for (uint32_t changes = 1 + Next(state) % 4; changes > 0 && bytes->size() > 8; --changes) {
    const size_t at = Next(state) % (bytes->size() - 4);
    switch (Next(state) % 5) {
      case 0:
      case 1:
        (*bytes)[at] = static_cast<uint8_t>(Next(state));
        break;
      case 2: {
        const uint32_t number = kNumbers[Next(state) % (sizeof kNumbers / sizeof kNumbers[0])];
        std::memcpy(bytes->data() + (at & ~size_t{3}), &number, sizeof number);
        break;
      }
      case 3:
        std::memmove(bytes->data() + at, bytes->data() + Next(state) % (bytes->size() - 4), 4);
        break;
      default:
        if (Next(state) % 4 == 0) {
          bytes->resize(at);
        }
        break;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: fuzz ROUNDS SEED FILE...\n");
    return 2;
  }
  const uint32_t rounds = static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10));
  uint32_t state = static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)) | 1u;
  for (int i = 3; i < argc; ++i) {
    std::vector<uint8_t> original;
    std::FILE* file = std::fopen(argv[i], "rb");
    if (file == nullptr) {
      return 2;
    }
    for (int byte; (byte = std::fgetc(file)) != EOF;) {
      original.push_back(static_cast<uint8_t>(byte));
    }
    std::fclose(file);
    LLVMFuzzerTestOneInput(original.data(), original.size());
    for (uint32_t round = 0; round < rounds; ++round) {
      std::vector<uint8_t> mutated = original;
      Mutate(&mutated, &state);
      mutated.shrink_to_fit();
      LLVMFuzzerTestOneInput(mutated.data(), mutated.size());
    }
  }
  return 0;
}

#endif
