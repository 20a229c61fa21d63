// main() of a fuzz target without libFuzzer: runs it over files, unchanged and mutated.
//
//   target ROUNDS SEED FILE...
//
// Each file is run once unchanged and ROUNDS times mutated; equal seeds give equal mutations everywhere.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

uint32_t Next(uint32_t* state) {  // xorshift
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/// Up to four changes: a byte, a 32-bit number at a limit of offset arithmetic, a block copied elsewhere, a truncation.
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
        if (Next(state) % 4 == 0) bytes->resize(at);
        break;
    }
  }
}

bool ReadFile(const char* path, std::vector<uint8_t>* bytes) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return false;
  for (int byte; (byte = std::fgetc(file)) != EOF;) bytes->push_back(static_cast<uint8_t>(byte));
  std::fclose(file);
  return true;
}

/// A copy of exactly its size, so that the address sanitizer detects an overrun.
void RunOnce(const std::vector<uint8_t>& bytes) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: target ROUNDS SEED FILE...\n");
    return 2;
  }
  const auto rounds = static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10));
  uint32_t state = static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)) | 1u;
  for (int i = 3; i < argc; ++i) {
    std::vector<uint8_t> original;
    if (!ReadFile(argv[i], &original)) {
      std::fprintf(stderr, "cannot read %s\n", argv[i]);
      return 2;
    }
    RunOnce(original);
    for (uint32_t round = 0; round < rounds; ++round) {
      std::vector<uint8_t> mutated = original;
      Mutate(&mutated, &state);
      RunOnce(mutated);
    }
  }
  return 0;
}
