#include "frame/encoder.h"

#include <cstring>

#include "frame/crc32.h"

namespace hil {

size_t Encoder::Seal(uint8_t type, uint16_t seq, size_t payload_size, uint8_t* out) {
  body_[0] = type;
  std::memcpy(body_ + 1, &seq, sizeof(seq));
  const size_t checked = kFrameHeaderSize + payload_size;
  const uint32_t crc = Crc32(body_, checked, CrcSeed(type));
  std::memcpy(body_ + checked, &crc, sizeof(crc));
  const size_t encoded = CobsEncode(body_, checked + sizeof(crc), out);
  out[encoded] = 0;
  return encoded + 1;
}

size_t CobsEncode(const uint8_t* data, size_t size, uint8_t* out) {
  size_t code_at = 0;
  size_t end = 1;
  uint8_t code = 1;
  for (size_t i = 0; i < size; ++i) {
    if (data[i] != 0) {
      out[end++] = data[i];
      ++code;
      if (code != 0xFF || i + 1 == size) continue;
    }
    out[code_at] = code;
    code_at = end++;
    code = 1;
  }
  out[code_at] = code;
  return end;
}

size_t CobsDecode(uint8_t* data, size_t size) {
  size_t read = 0;
  size_t written = 0;
  while (read < size) {
    const uint8_t code = data[read++];
    const size_t run = static_cast<size_t>(code) - 1;
    if (code == 0 || run > size - read) return SIZE_MAX;
    std::memmove(data + written, data + read, run);
    read += run;
    written += run;
    if (code != 0xFF && read < size) data[written++] = 0;
  }
  return written;
}

}  // namespace hil
