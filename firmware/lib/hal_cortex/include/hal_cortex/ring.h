// Ring buffer of received bytes, from the interrupt to the main loop.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil::cortex {

/// One writer, the interrupt, and one reader. Counters only grow; their differences are the bytes and delimiters held.
template <uint32_t kCapacity>
class Ring {
 public:
  bool Full() const { return written_ - read_ == kCapacity; }
  uint32_t Size() const { return written_ - read_; }

  /// Whether to wake up: at the end of a frame (0x00) or of a text line, or when half full.
  bool HasMessage() const { return delimiters_written_ != delimiters_read_ || Size() > kCapacity / 2; }

  /// By the interrupt; not when full.
  void Put(uint8_t byte) {
    bytes_[written_ % kCapacity] = byte;
    written_ = written_ + 1;
    if (IsDelimiter(byte)) delimiters_written_ = delimiters_written_ + 1;
  }

  /// By the main loop: at most `capacity` bytes.
  size_t Take(uint8_t* buffer, size_t capacity) {
    size_t count = 0;
    while (count < capacity && read_ != written_) {
      const uint8_t byte = bytes_[read_ % kCapacity];
      buffer[count++] = byte;
      read_ = read_ + 1;
      if (IsDelimiter(byte)) delimiters_read_ = delimiters_read_ + 1;
    }
    return count;
  }

 private:
  static bool IsDelimiter(uint8_t byte) { return byte == 0 || byte == '\n'; }

  uint8_t bytes_[kCapacity] = {};
  volatile uint32_t written_ = 0;
  volatile uint32_t read_ = 0;
  volatile uint32_t delimiters_written_ = 0;
  volatile uint32_t delimiters_read_ = 0;
};

}  // namespace hil::cortex
