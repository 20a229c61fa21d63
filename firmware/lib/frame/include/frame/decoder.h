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

/// What went wrong on the line so far.
struct DecoderCounters {
  uint32_t crc_errors = 0;      ///< COBS was right, the CRC was not
  uint32_t framing_errors = 0;  ///< not COBS, too short, too long or cut off
  uint32_t dropped_bytes = 0;   ///< part of no good frame or line; delimiters and line ends do not count
};

/// Finds frames and text lines in a byte stream.
///
/// A frame ends with a 0x00 and its second byte is its type, >= 0x80. A text line starts with a printable character and ends
/// with '\n'. A byte >= 0x80 inside text therefore means that a frame started one byte earlier. After damage the decoder is in
/// step again at the next 0x00 or line end.
class Decoder {
 public:
  enum class Event : uint8_t {
    kNone,       ///< more bytes are needed
    kFrame,      ///< frame() holds a frame whose CRC is right
    kLine,       ///< line() holds a text line without its line end
    kOversized,  ///< a frame longer than kMaxFrame ended; frame() holds its type and number, unverified
    kLongLine,   ///< a text line longer than kMaxText ended
  };

  /// Takes one byte.
  Event Feed(uint8_t byte);

  /// True while a frame has begun and its 0x00 has not arrived.
  bool InsideFrame() const { return state_ == State::kFrame || state_ == State::kOversized; }

  /// Drops a half-received frame or line.
  void Reset();

  const FrameView& frame() const { return frame_; }
  StringView line() const { return StringView(reinterpret_cast<const char*>(buffer_), line_size_); }
  const DecoderCounters& counters() const { return counters_; }

 private:
  enum class State : uint8_t {
    kStart,      // between records; at most one byte is held, of which it is not known yet what it begins
    kText,       // in a line
    kLongLine,   // in a line that is too long; its latest byte is held, it might be the first of a frame
    kFrame,      // in a frame
    kOversized,  // in a frame that is too long, up to its 0x00
  };

  Event Start(uint8_t byte);
  Event Text(uint8_t byte);
  Event Frame(uint8_t byte);
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
  // Lines and frames share it; a line is known to be too long by one byte more.
  uint8_t buffer_[kMaxFrame > protocol::kMaxText ? kMaxFrame : protocol::kMaxText + 1] = {};
};

}  // namespace hil
