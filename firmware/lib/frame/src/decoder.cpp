#include "frame/decoder.h"

#include <cstring>

#include "frame/crc32.h"

namespace hil {
namespace {

constexpr uint8_t kFirstType = 0x80;

bool IsText(uint8_t byte) { return (byte >= 0x20 && byte < 0x7F) || byte == '\t'; }
bool IsLineEnd(uint8_t byte) { return byte == '\r' || byte == '\n'; }

// Reads type and sequence number from the first 8 encoded bytes of a frame.
void PeekHeader(const uint8_t* encoded, FrameView* frame) {
  uint8_t head[8];
  std::memcpy(head, encoded, sizeof(head));
  head[0] = head[0] < sizeof(head) ? head[0] : sizeof(head);
  for (size_t at = head[0]; at < sizeof(head);) {
    const size_t next = at + head[at];
    head[at] = 0;
    if (next <= at) break;
    at = next;
  }
  frame->type = head[1];
  std::memcpy(&frame->seq, head + 2, sizeof(frame->seq));
  frame->payload = nullptr;
  frame->payload_size = 0;
}

}  // namespace

Decoder::Event Decoder::Other(uint8_t byte) {
  switch (state_) {
    case State::kStart:
      return Start(byte);
    case State::kText:
      return Text(byte);
    case State::kLongLine:
      return LongLine(byte);
    case State::kFrame:
      return Frame(byte);
    case State::kOversized:
      if (byte != 0) {
        ++counters_.dropped_bytes;
        return Event::kNone;
      }
      state_ = State::kStart;
      return Event::kOversized;
  }
  return Event::kNone;
}

void Decoder::Reset() {
  if (state_ == State::kFrame) ++counters_.framing_errors;  // an oversized frame is already counted
  Drop(size_);
  state_ = State::kStart;
}

// The recursion is one level deep: a restart holds no bytes.
// NOLINTBEGIN(misc-no-recursion)
Decoder::Event Decoder::Start(uint8_t byte) {
  if (size_ == 0) {
    if (byte != 0) buffer_[size_++] = byte;
    return Event::kNone;
  }
  const uint8_t first = buffer_[0];
  if (byte >= kFirstType) {
    BeginFrame(first, byte);
    return Event::kNone;
  }
  if (IsLineEnd(first)) {
    size_ = 0;
    return RestartWith(byte);
  }
  if (!IsText(first)) {
    Drop(1);
    return RestartWith(byte);
  }
  return Text(byte);
}

Decoder::Event Decoder::Text(uint8_t byte) {
  if (byte == '\n') return FinishLine();
  if (byte >= kFirstType) {
    const uint8_t first = buffer_[size_ - 1];
    Drop(size_ - 1);
    BeginFrame(first, byte);
    return Event::kNone;
  }
  if (!IsText(byte) && byte != '\r') {
    Drop(size_);
    return RestartWith(byte);
  }
  state_ = State::kText;
  buffer_[size_++] = byte;
  if (size_ > protocol::kMaxText) {
    Drop(size_ - 1);
    buffer_[0] = byte;
    size_ = 1;
    state_ = State::kLongLine;
  }
  return Event::kNone;
}

Decoder::Event Decoder::LongLine(uint8_t byte) {
  if (byte >= kFirstType) {
    BeginFrame(buffer_[0], byte);
    return Event::kNone;
  }
  Drop(1);
  if (byte == '\n') {
    state_ = State::kStart;
    return Event::kLongLine;
  }
  if (!IsText(byte) && byte != '\r') return RestartWith(byte);
  buffer_[size_++] = byte;
  return Event::kNone;
}

Decoder::Event Decoder::FinishLine() {
  line_size_ = buffer_[size_ - 1] == '\r' ? size_ - 1 : size_;
  size_ = 0;
  state_ = State::kStart;
  return Event::kLine;
}

Decoder::Event Decoder::RestartWith(uint8_t byte) {
  state_ = State::kStart;
  return Start(byte);
}
// NOLINTEND(misc-no-recursion)

void Decoder::BeginFrame(uint8_t first, uint8_t type) {
  buffer_[0] = first;
  buffer_[1] = type;
  size_ = 2;
  state_ = State::kFrame;
}

void Decoder::Drop(size_t count) {
  counters_.dropped_bytes += static_cast<uint32_t>(count);
  size_ = 0;
}

Decoder::Event Decoder::Frame(uint8_t byte) {
  if (byte == 0) return FinishFrame();
  ++counters_.framing_errors;
  PeekHeader(buffer_, &frame_);
  Drop(size_ + 1);
  state_ = State::kOversized;
  return Event::kNone;
}

Decoder::Event Decoder::FinishFrame() {
  const size_t encoded = size_;
  size_ = 0;
  state_ = State::kStart;
  if (encoded > kMaxBody) PeekHeader(buffer_, &frame_);
  const size_t size = CobsDecode(buffer_, encoded);
  if (size == SIZE_MAX || size < kFrameOverhead || size > kMaxBody) {
    ++counters_.framing_errors;
    Drop(encoded);
    return size != SIZE_MAX && size > kMaxBody ? Event::kOversized : Event::kNone;
  }
  const size_t checked = size - sizeof(uint32_t);
  uint32_t crc = 0;
  std::memcpy(&crc, buffer_ + checked, sizeof(crc));
  if (Crc32(buffer_, checked, CrcSeed(buffer_[0])) != crc) {
    ++counters_.crc_errors;
    Drop(encoded);
    return Event::kNone;
  }
  frame_.type = buffer_[0];
  std::memcpy(&frame_.seq, buffer_ + 1, sizeof(frame_.seq));
  frame_.payload = buffer_ + kFrameHeaderSize;
  frame_.payload_size = checked - kFrameHeaderSize;
  return Event::kFrame;
}

}  // namespace hil
