// Non-owning views of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hil {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are sent in the byte order of memory");

/// Elements owned elsewhere, possibly unaligned: they may lie inside a received frame.
template <typename T>
class ArrayView {
 public:
  constexpr ArrayView() = default;
  ArrayView(const T* elements, uint32_t count) : bytes_(reinterpret_cast<const uint8_t*>(elements)), count_(count) {}

  /// A view of `count` elements that start at `bytes`.
  static ArrayView FromBytes(const uint8_t* bytes, uint32_t count) {
    ArrayView view;
    view.bytes_ = bytes;
    view.count_ = count;
    return view;
  }

  uint32_t size() const { return count_; }
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
  uint32_t count_ = 0;
};

/// Characters owned elsewhere; not NUL-terminated.
struct StringView {
  const char* data = nullptr;
  size_t size = 0;

  constexpr StringView() = default;
  constexpr StringView(const char* text, size_t length) : data(text), size(length) {}

  /// A view of a C string, truncated to `limit` characters.
  static StringView FromC(const char* text, size_t limit) {
    const size_t length = std::strlen(text);
    return StringView(text, length < limit ? length : limit);
  }
};

}  // namespace hil
