// HAL on top of the Arduino API, for every board with an Arduino core.
#pragma once

#include <Arduino.h>

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"

namespace hil::arduino {

/// The port to the host: `Serial`, a UART or the processor's native USB.
class StreamUart final : public hal::Uart {
 public:
  explicit StreamUart(Stream& stream) : stream_(stream) {}

  /// Reads the bytes received so far, at most `capacity`. Does not block.
  size_t Read(uint8_t* buffer, size_t capacity) {
    size_t count = 0;
    while (count < capacity && stream_.available() > 0) {
      const int byte = stream_.read();
      if (byte < 0) break;
      buffer[count++] = static_cast<uint8_t>(byte);
    }
    return count;
  }

  /// Waits up to 100 ms for buffer space, then drops the reply and, without waiting, the next ones until there is space again.
  /// Cores differ in what write() does when the buffer is full (block, write a part, write nothing); only its result is used.
  bool Write(const uint8_t* data, size_t size) override {
    const auto start_ms = static_cast<uint32_t>(millis());
    while (size > 0) {
      const size_t taken = stream_.write(data, size);
      data += taken;
      size -= taken;
      if (taken > 0) continue;
      if (congested_ || static_cast<uint32_t>(millis()) - start_ms >= kWriteTimeoutMs) break;
      yield();
    }
    congested_ = size > 0;
    return !congested_;
  }

  /// Arduino's Stream does not report overruns.
  uint32_t Overruns() const override { return 0; }

 private:
  static constexpr uint32_t kWriteTimeoutMs = 100;

  Stream& stream_;
  bool congested_ = false;
};

/// micros() without its wrap after 71 minutes. Must be asked at least once in that time, which the main loop does.
class MicrosClock final : public hal::Clock {
 public:
  uint64_t NowUs() const override {
    const auto low = static_cast<uint32_t>(micros());
    if (low < low_) high_ += uint64_t{1} << 32;
    low_ = low;
    return high_ + low;
  }

 private:
  mutable uint64_t high_ = 0;
  mutable uint32_t low_ = 0;
};

/// The plant is simulated by the host. The LED shows what a robot's motors would do: on while actions arrive, off in the safe
/// state.
class LedActuator final : public hal::Actuator {
 public:
  void Begin() { pinMode(LED_BUILTIN, OUTPUT); }
  void Apply(const float*, size_t) override { digitalWrite(LED_BUILTIN, HIGH); }
  void EnterSafeState() override { digitalWrite(LED_BUILTIN, LOW); }
};

class BoardSystem final : public hal::System {
 public:
  /// On boards whose port is the processor's own USB the host sees the cable pulled and put back.
  void Reboot() override {
#if defined(ARDUINO_ARCH_ESP32)
    ESP.restart();
#elif defined(__IMXRT1062__)
    SCB_AIRCR = 0x05FA0004;  // Teensy's core has no CMSIS
#else
    NVIC_SystemReset();
#endif
  }
};

}  // namespace hil::arduino
