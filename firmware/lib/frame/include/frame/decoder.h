// Bytes to frames and text lines. The twin of balance_hil.protocol.codec.Decoder; both are driven by test/frame_cases.toml.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frame/encoder.h"

namespace hil {

/// One received frame. The payload lies in the decoder and is valid until its next Feed().
struct FrameView {
  uint8_t type = 0;
  uint16_t seq = 0;
  const uint8_t* payload = nullptr;
  size_t payload_size = 0;
};

/// Receive errors since boot.
struct DecoderCounters {
  uint32_t crc_errors = 0;      ///< valid COBS, wrong CRC
  uint32_t framing_errors = 0;  ///< invalid COBS, too short, too long or truncated
  uint32_t dropped_bytes = 0;   ///< outside valid frames and lines, without delimiters and line ends
};

/// Finds frames and text lines in a byte stream.
///
/// A frame ends with a 0x00 and its second byte is its type, >= 0x80. A text line starts with a printable character and ends
/// with '\n'. A byte >= 0x80 inside text therefore means that a frame started one byte earlier. After damage the decoder
/// resynchronizes at the next 0x00 or line end.
class Decoder {
 public:
  enum class Event : uint8_t {
    kNone,       ///< more bytes are needed
    kFrame,      ///< frame() holds a frame with a valid CRC
    kLine,       ///< line() holds a text line without its line end
    kOversized,  ///< a frame longer than kMaxFrame ended; frame() holds its type and number, unverified
    kLongLine,   ///< a text line longer than kMaxText ended
  };

  /// Takes one byte.
  Event Feed(uint8_t byte) {
    if (state_ != State::kFrame || byte == 0 || size_ == kMaxFrame) return Other(byte);
    buffer_[size_++] = byte;  // almost every byte
    return Event::kNone;
  }

  /// True from the start of a frame until its 0x00.
  bool InsideFrame() const { return state_ == State::kFrame || state_ == State::kOversized; }

  /// Drops a partial frame or line.
  void Reset();

  const FrameView& frame() const { return frame_; }
  StringView line() const { return StringView(reinterpret_cast<const char*>(buffer_), line_size_); }
  const DecoderCounters& counters() const { return counters_; }

 private:
  enum class State : uint8_t {
    kStart,      // between records; holds at most one byte, of a kind not yet known
    kText,       // in a line
    kLongLine,   // in a line that is too long; holds the last byte, which may start a frame
    kFrame,      // in a frame
    kOversized,  // in a frame that is too long, up to its 0x00
  };

  Event Start(uint8_t byte);
  Event Text(uint8_t byte);
  Event Frame(uint8_t byte);
  Event Other(uint8_t byte);
  Event LongLine(uint8_t byte);
  Event FinishFrame();
  Event FinishLine();
  Event RestartWith(uint8_t byte);
  void BeginFrame(uint8_t first, uint8_t type);
  void Drop(size_t count);

  State state_ = State::kStart;
  size_t size_ = 0;  // bytes held
  size_t line_size_ = 0;
  FrameView frame_;
  DecoderCounters counters_;
  // Shared by lines and frames; one byte more than the longest line detects an overlong one.
  uint8_t buffer_[kMaxFrame > protocol::kMaxText ? kMaxFrame : protocol::kMaxText + 1] = {};
};

}  // namespace hil
