#include "model_id/model_id.h"

#include <cstring>

namespace hil {
namespace {

constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

uint32_t Rotate(uint32_t value, unsigned count) { return (value >> count) | (value << (32 - count)); }

uint32_t BigEndian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | uint32_t{bytes[3]};
}

// FIPS 180-4, section 6.2.2.
void Compress(uint32_t (&state)[8], const uint8_t* block) {
  uint32_t schedule[64];
  for (size_t t = 0; t < 16; ++t) schedule[t] = BigEndian(block + 4 * t);
  for (size_t t = 16; t < 64; ++t) {
    const uint32_t a = schedule[t - 15];
    const uint32_t b = schedule[t - 2];
    schedule[t] = schedule[t - 16] + (Rotate(a, 7) ^ Rotate(a, 18) ^ (a >> 3)) + schedule[t - 7] +
                  (Rotate(b, 17) ^ Rotate(b, 19) ^ (b >> 10));
  }
  uint32_t v[8];
  std::memcpy(v, state, sizeof(v));
  for (size_t t = 0; t < 64; ++t) {
    const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
    const uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
    const uint32_t first = v[7] + (Rotate(v[4], 6) ^ Rotate(v[4], 11) ^ Rotate(v[4], 25)) + choice + kRound[t] + schedule[t];
    const uint32_t second = (Rotate(v[0], 2) ^ Rotate(v[0], 13) ^ Rotate(v[0], 22)) + majority;
    std::memmove(v + 1, v, 7 * sizeof(v[0]));
    v[4] += first;
    v[0] = first + second;
  }
  for (size_t i = 0; i < 8; ++i) state[i] += v[i];
}

}  // namespace

void ModelHash::Add(const uint8_t* data, size_t size) {
  for (size_t at = 0; at < size; at += kBlock) Compress(state_, data + at);
  added_ += size;
}

ModelId ModelHash::Finish(const uint8_t* rest, size_t size) {
  const size_t whole = size / kBlock * kBlock;
  Add(rest, whole);
  const size_t left = size - whole;
  uint8_t tail[2 * kBlock] = {};
  std::memcpy(tail, rest + whole, left);
  tail[left] = 0x80;
  const size_t padded = left + 9 <= kBlock ? kBlock : 2 * kBlock;
  const uint64_t bits = (added_ + left) * 8;
  for (size_t i = 0; i < 8; ++i) tail[padded - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  Add(tail, padded);
  ModelId id;
  for (size_t i = 0; i < kModelIdSize; ++i) id.text[i] = "0123456789abcdef"[state_[i / 8] >> (28 - 4 * (i % 8)) & 0x0F];
  return id;
}

}  // namespace hil
