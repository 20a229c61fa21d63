// Bounded reading of a flatbuffer, without generated code and without its library.
#pragma once

#include <cstdint>

namespace hil::int8 {

/// A vector inside a flatbuffer: `count` elements from byte `position` on, all of them inside the buffer.
struct FlatVector {
  uint32_t position = 0;
  uint32_t count = 0;
};

/// A flatbuffer that may be cut off, garbled or hostile. Positions are byte offsets from its start; 0 stands for "absent", which
/// no table, vector or field ever is at. A read that would leave the buffer yields 0 and makes `ok()` false for good, so that a
/// caller may read on and check once, before it relies on anything.
class Flatbuffer {
 public:
  Flatbuffer(const uint8_t* data, uint32_t size) : data_(data), size_(size) {}

  bool ok() const { return ok_; }
  uint32_t size() const { return size_; }

  /// Position of the root table.
  uint32_t Root() { return Follow(0); }

  /// Position of field number `id` of a table, 0 where the field has its default value.
  uint32_t Field(uint32_t table, uint32_t id);

  /// Position of the table or vector that the offset stored at `field` points to; absent stays absent.
  uint32_t TableAt(uint32_t field) { return field == 0 ? 0 : Follow(field); }
  FlatVector VectorAt(uint32_t field, uint32_t element_size);

  /// Position of table number `index` of a vector of tables. `index` out of range makes `ok()` false.
  uint32_t TableIn(const FlatVector& tables, uint32_t index);
  int32_t Int32In(const FlatVector& numbers, uint32_t index);

  /// Scalar fields of a table, `fallback` where absent.
  uint8_t Uint8Field(uint32_t table, uint32_t id, uint8_t fallback);
  uint32_t Uint32Field(uint32_t table, uint32_t id, uint32_t fallback);

  /// Address of `bytes` bytes from `position` on, nullptr where they are not all inside.
  const uint8_t* At(uint32_t position, uint32_t bytes);

 private:
  uint32_t Follow(uint32_t position);
  uint32_t Uint32(uint32_t position);
  uint32_t Uint16(uint32_t position);

  const uint8_t* data_;
  uint32_t size_;
  bool ok_ = true;
};

}  // namespace hil::int8
