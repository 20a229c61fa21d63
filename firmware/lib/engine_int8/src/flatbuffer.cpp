#include "engine_int8/flatbuffer.h"

#include <cstring>

namespace hil::int8 {

const uint8_t* Flatbuffer::At(uint32_t position, uint32_t bytes) {
  if (position > size_ || bytes > size_ - position) {
    ok_ = false;
    return nullptr;
  }
  return data_ + position;
}

uint32_t Flatbuffer::Uint32(uint32_t position) {
  const uint8_t* bytes = At(position, 4);
  uint32_t value = 0;
  if (bytes != nullptr) {
    std::memcpy(&value, bytes, sizeof value);  // fields of a malicious file may be unaligned
  }
  return value;
}

uint32_t Flatbuffer::Uint16(uint32_t position) {
  const uint8_t* bytes = At(position, 2);
  uint16_t value = 0;
  if (bytes != nullptr) std::memcpy(&value, bytes, sizeof value);
  return value;
}

uint32_t Flatbuffer::Follow(uint32_t position) {
  const uint32_t offset = Uint32(position);
  if (offset == 0 || offset >= size_ - position) {  // a failed read gave 0; `position` is inside otherwise
    ok_ = false;
    return 0;
  }
  return position + offset;
}

uint32_t Flatbuffer::Field(uint32_t table, uint32_t id) {
  if (table == 0) return 0;
  // A table starts with the distance back to its vtable: sizes of vtable and table, then one 16-bit offset for each field.
  const uint32_t vtable = table - Uint32(table);  // wraps for a vtable behind the table, which is allowed
  const uint32_t slot = 4 + 2 * id;
  if (slot + 2 > Uint16(vtable)) return 0;
  const uint32_t offset = Uint16(vtable + slot);
  return offset == 0 ? 0 : table + offset;
}

uint32_t Flatbuffer::TableField(uint32_t table, uint32_t id) {
  const uint32_t field = Field(table, id);
  return field == 0 ? 0 : Follow(field);
}

uint32_t Flatbuffer::VectorField(uint32_t table, uint32_t id, uint32_t element_size) {
  const uint32_t vector = TableField(table, id);
  if (Count(vector) > (size_ - vector) / element_size) {  // then the last element is inside or next to the end ...
    ok_ = false;
    return 0;
  }
  // ... and this tells which.
  return vector != 0 && At(vector + 4, Count(vector) * element_size) == nullptr ? 0 : vector;
}

uint32_t Flatbuffer::TableIn(uint32_t vector, uint32_t index) {
  if (index >= Count(vector)) {
    ok_ = false;
    return 0;
  }
  return Follow(vector + 4 + 4 * index);
}

int32_t Flatbuffer::Int32In(uint32_t vector, uint32_t index) {
  if (index >= Count(vector)) {
    ok_ = false;
    return 0;
  }
  return static_cast<int32_t>(Uint32(vector + 4 + 4 * index));
}

uint8_t Flatbuffer::Uint8Field(uint32_t table, uint32_t id, uint8_t fallback) {
  const uint32_t field = Field(table, id);
  const uint8_t* byte = field == 0 ? nullptr : At(field, 1);
  return byte == nullptr ? fallback : *byte;
}

uint32_t Flatbuffer::Uint32Field(uint32_t table, uint32_t id, uint32_t fallback) {
  const uint32_t field = Field(table, id);
  return field == 0 ? fallback : Uint32(field);
}

}  // namespace hil::int8
