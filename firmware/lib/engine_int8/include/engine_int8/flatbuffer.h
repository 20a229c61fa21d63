// Bounds-checked reading of a flatbuffer, without generated code and its library.
#pragma once

#include <cstdint>

namespace hil::int8 {

/// A flatbuffer that may be truncated, corrupt or malicious. Positions are byte offsets from its start; 0 means absent. A read
/// beyond the buffer returns 0 and makes `ok()` false permanently: callers check once, before they use the values.
class Flatbuffer {
 public:
  Flatbuffer(const uint8_t* data, uint32_t size) : data_(data), size_(size) {}

  bool ok() const { return ok_; }
  uint32_t size() const { return size_; }

  /// Position of the root table.
  uint32_t Root() { return Follow(0); }

  /// Position of field number `id` of a table; 0 if the field has its default value.
  uint32_t Field(uint32_t table, uint32_t id);

  /// Position of the table, or of the vector of elements of `element_size` bytes, that field number `id` refers to. All elements
  /// of the vector are inside the buffer.
  uint32_t TableField(uint32_t table, uint32_t id);
  uint32_t VectorField(uint32_t table, uint32_t id, uint32_t element_size);

  /// Elements of a vector; 0 of an absent one.
  uint32_t Count(uint32_t vector) { return vector == 0 ? 0 : Uint32(vector); }

  /// Element `index` of a vector of tables (its position) or of 32-bit numbers. An `index` out of range makes `ok()` false.
  uint32_t TableIn(uint32_t vector, uint32_t index);
  int32_t Int32In(uint32_t vector, uint32_t index);

  /// The bytes of a vector of bytes.
  const uint8_t* BytesOf(uint32_t vector) { return At(vector + 4, Count(vector)); }

  /// Scalar fields of a table, `fallback` where absent.
  uint8_t Uint8Field(uint32_t table, uint32_t id, uint8_t fallback);
  uint32_t Uint32Field(uint32_t table, uint32_t id, uint32_t fallback);

  /// Address of `bytes` bytes at `position`; nullptr if they are not all inside.
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
