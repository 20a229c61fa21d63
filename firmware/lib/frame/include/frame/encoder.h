// Messages to bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frame/messages.h"

namespace hil {

inline constexpr size_t kFrameHeaderSize = 3;  // type u8, sequence number u16
inline constexpr size_t kFrameOverhead = kFrameHeaderSize + 4;
inline constexpr size_t kMaxBody = kFrameOverhead + protocol::kMaxPayload;
inline constexpr size_t kMaxFrame = kMaxBody + kMaxBody / 254 + 1;  ///< encoded, without the 0x00

/// Encodes messages as frames. Holds the body under construction.
class Encoder {
 public:
  /// Encodes `message` into `out`, which holds at least kMaxFrame + 1 bytes. Returns the size of the frame with its 0x00, or 0
  /// when the payload is longer than the protocol allows.
  template <typename Message>
  size_t Encode(const Message& message, uint16_t seq, uint8_t* out) {
    PayloadWriter writer(body_ + kFrameHeaderSize, protocol::kMaxPayload);
    message.Write(&writer);
    if (writer.overflowed()) return 0;
    return Seal(static_cast<uint8_t>(Message::kType), seq, writer.size(), out);
  }

 private:
  size_t Seal(uint8_t type, uint16_t seq, size_t payload_size, uint8_t* out);

  uint8_t body_[kMaxBody] = {};
};

/// COBS-encodes `size` bytes into `out` (at least size + size / 254 + 1 bytes) without a delimiter. Returns the encoded size.
size_t CobsEncode(const uint8_t* data, size_t size, uint8_t* out);

/// Decodes in place. Returns the decoded size, or SIZE_MAX when a code byte points past the end.
size_t CobsDecode(uint8_t* data, size_t size);

/// Initial CRC of a frame of this type.
constexpr uint32_t CrcSeed(uint8_t type) { return protocol::IsHandshake(type) ? 0 : protocol::kSchemaCrc; }

}  // namespace hil
