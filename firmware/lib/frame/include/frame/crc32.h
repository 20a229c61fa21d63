// zlib's CRC-32, with a table of 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil {

/// Continues `crc` (0 at the start, or the result of an earlier call) over `size` bytes. Equals zlib.crc32(data, crc).
uint32_t Crc32(const uint8_t* data, size_t size, uint32_t crc);

}  // namespace hil
