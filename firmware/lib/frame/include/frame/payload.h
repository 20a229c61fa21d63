// Reading and writing the payload of a message: bounds-checked, no allocation, alignment-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "status/view.h"

namespace hil {

/// Reads values from the front of a payload. Every Read returns false if too few bytes are left.
class PayloadReader {
 public:
  PayloadReader(const uint8_t* data, size_t size) : cursor_(data), left_(size) {}

  template <typename T>
  bool Read(T* value) {
    static_assert(std::is_arithmetic_v<T>, "scalars only");
    if (left_ < sizeof(T)) return false;
    std::memcpy(value, cursor_, sizeof(T));
    Skip(sizeof(T));
    return true;
  }

  template <typename T>
  bool Read(ArrayView<T>* view) {
    uint16_t count = 0;
    if (!Read(&count) || left_ < count * sizeof(T)) return false;
    *view = ArrayView<T>::FromBytes(cursor_, count);
    Skip(count * sizeof(T));
    return true;
  }

  bool Read(StringView* view) {
    uint8_t size = 0;
    if (!Read(&size) || left_ < size) return false;
    *view = StringView(reinterpret_cast<const char*>(cursor_), size);
    Skip(size);
    return true;
  }

  bool AtEnd() const { return left_ == 0; }

 private:
  void Skip(size_t count) {
    cursor_ += count;
    left_ -= count;
  }

  const uint8_t* cursor_;
  size_t left_;
};

/// Appends values to a buffer. A value that does not fit is omitted, and `overflowed()` becomes true.
class PayloadWriter {
 public:
  PayloadWriter(uint8_t* buffer, size_t capacity) : buffer_(buffer), capacity_(capacity) {}

  template <typename T>
  void Write(T value) {
    static_assert(std::is_arithmetic_v<T>, "scalars only");
    Append(&value, sizeof(T));
  }

  template <typename T>
  void Write(const ArrayView<T>& view) {
    if (view.size() > UINT16_MAX) overflowed_ = true;
    Write(static_cast<uint16_t>(view.size()));
    Append(view.bytes(), view.byte_size());
  }

  void Write(const StringView& view) {
    if (view.size > UINT8_MAX) {
      overflowed_ = true;
      return;
    }
    Write(static_cast<uint8_t>(view.size));
    Append(view.data, view.size);
  }

  size_t size() const { return size_; }
  bool overflowed() const { return overflowed_; }

 private:
  void Append(const void* data, size_t count) {
    if (count == 0) return;
    if (overflowed_ || capacity_ - size_ < count) {
      overflowed_ = true;
      return;
    }
    std::memcpy(buffer_ + size_, data, count);
    size_ += count;
  }

  uint8_t* buffer_;
  size_t capacity_;
  size_t size_ = 0;
  bool overflowed_ = false;
};

}  // namespace hil
