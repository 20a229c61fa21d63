// Reads decisions and bytes from the front of a fuzzer's input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hil::fuzz {

/// Missing bytes read as zero, so that every input is valid.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), left_(size) {}

  bool AtEnd() const { return left_ == 0; }
  size_t left() const { return left_; }

  uint8_t Byte() {
    if (left_ == 0) return 0;
    --left_;
    return *at_++;
  }

  uint16_t Short() {
    const uint8_t low = Byte();
    return static_cast<uint16_t>(low | Byte() << 8);
  }

  uint32_t Word() {
    const uint32_t low = Short();
    return low | uint32_t{Short()} << 16;
  }

  /// At most `size` bytes; `*taken` is their number.
  const uint8_t* Bytes(size_t size, size_t* taken) {
    *taken = size < left_ ? size : left_;
    const uint8_t* bytes = at_;
    at_ += *taken;
    left_ -= *taken;
    return bytes;
  }

 private:
  const uint8_t* at_;
  size_t left_;
};

}  // namespace hil::fuzz
