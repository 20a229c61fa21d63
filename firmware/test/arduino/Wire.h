// Stand-in for an Arduino core's I2C.
#pragma once

#include <cstddef>
#include <cstdint>

class TwoWire {
 public:
  void begin() {}
  void setClock(uint32_t hz) { hz_ = hz; }
  void beginTransmission(uint8_t address);
  size_t write(uint8_t value);
  uint8_t endTransmission(bool stop = true);
  uint8_t requestFrom(uint8_t address, uint8_t count);
  int read();

 private:
  uint32_t hz_ = 0;
};

extern TwoWire Wire;  // NOLINT(readability-identifier-naming): Arduino's names
