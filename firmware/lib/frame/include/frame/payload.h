// Reading and writing the payload of a message: bounds-checked, no allocation, alignment-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace hil {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values go to the wire as they lie in memory");

/// Elements that somebody else owns, possibly unaligned (they may lie inside a received frame).
template <typename T>
class ArrayView {
 public:
  constexpr ArrayView() = default;
  ArrayView(const T* elements, uint16_t count) : bytes_(reinterpret_cast<const uint8_t*>(elements)), count_(count) {}

  /// A view of `count` elements that start at `bytes`.
  static ArrayView FromBytes(const uint8_t* bytes, uint16_t count) {
    ArrayView view;
    view.bytes_ = bytes;
    view.count_ = count;
    return view;
  }

  uint16_t size() const { return count_; }
  const uint8_t* bytes() const { return bytes_; }
  size_t byte_size() const { return count_ * sizeof(T); }

  /// Element `index`, which must be below `size()`.
  T operator[](size_t index) const {
    T value;
    std::memcpy(&value, bytes_ + index * sizeof(T), sizeof(T));
    return value;
  }

 private:
  const uint8_t* bytes_ = nullptr;
  uint16_t count_ = 0;
};

/// Characters that somebody else owns; not terminated.
struct StringView {
  const char* data = nullptr;
  size_t size = 0;

  constexpr StringView() = default;
  constexpr StringView(const char* text, size_t length) : data(text), size(length) {}

  /// A view of a C string, cut to `limit` characters.
  static StringView FromC(const char* text, size_t limit) {
    const size_t length = std::strlen(text);
    return StringView(text, length < limit ? length : limit);
  }
};

/// Takes values off the front of a payload. Every Read returns false when too few bytes are left.
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

/// Appends values to a buffer. What does not fit is left out and `overflowed()` turns true.
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
    Write(view.size());
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
