// Bytes as hex text.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace hil::probe {

inline std::string ToHex(const void* data, size_t size) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < size; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 0x0F];
  }
  return text;
}

inline std::vector<uint8_t> FromHex(const std::string& text) {
  std::vector<uint8_t> bytes(text.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return bytes;
}

template <typename T>
std::vector<T> Elements(const std::string& hex) {
  const std::vector<uint8_t> bytes = FromHex(hex);
  std::vector<T> elements(bytes.size() / sizeof(T));
  if (!elements.empty()) std::memcpy(elements.data(), bytes.data(), elements.size() * sizeof(T));
  return elements;
}

}  // namespace hil::probe
