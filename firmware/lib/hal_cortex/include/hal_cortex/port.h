// A UART whose receive interrupt fills a ring buffer while the processor sleeps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"
#include "hal_cortex/ring.h"
#include "hal_cortex/ticks.h"

namespace hil::cortex {

/// The one port of a chip, whose part it is to open it, to send a byte (false while the transmitter has no room) and to call
/// Put() and Lost() from the receive interrupt. A byte that is not taken for `kWriteTimeoutMs` ticks ends a message.
template <uint32_t kCapacity, void (*kOpen)(uint32_t baud), bool (*kSend)(uint8_t byte), void (*kFeedWatchdog)(),
          uint32_t kWriteTimeoutMs>
class Port final : public hal::Uart {
 public:
  void Open(uint32_t baud) { kOpen(baud); }

  /// See AwaitMessage().
  void Wait(uint32_t timeout_ms) { AwaitMessage(ring, timeout_ms, kFeedWatchdog); }

  /// Reads the bytes received so far, at most `capacity`.
  size_t Read(uint8_t* buffer, size_t capacity) { return ring.Take(buffer, capacity); }

  /// Returns false if the transmitter has taken no byte for the time allowed.
  bool Write(const uint8_t* data, size_t size) override {
    for (size_t i = 0; i < size; ++i) {
      for (const uint32_t started = Ticks(); !kSend(data[i]);) {
        if (Ticks() - started >= kWriteTimeoutMs) return false;
      }
    }
    return true;
  }

  /// Bytes lost because the interrupt came too late or the buffer was full.
  uint32_t Overruns() const override { return lost; }

  static void Lost() { lost = lost + 1; }
  static void Put(uint8_t byte) {
    if (ring.Full()) return Lost();
    ring.Put(byte);
  }

 private:
  static inline Ring<kCapacity> ring;
  static inline volatile uint32_t lost = 0;
};

}  // namespace hil::cortex
