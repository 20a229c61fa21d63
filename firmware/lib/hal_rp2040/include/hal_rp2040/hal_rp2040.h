// RP2040 (Raspberry Pi Pico) at register level: UART0 at GP0 and GP1, clock tree, timer, watchdog. Register addresses and fields:
// the RP2040 datasheet.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"

namespace hil::rp2040 {

inline constexpr uint32_t kRxBuffer = 4096;          ///< bytes that may be in flight to the board
inline constexpr uint32_t kUploadBytes = 64 * 1024;  ///< longest model that can be uploaded, with its vectors

/// Crystal of 12 MHz, PLL to 125 MHz, 1 MHz timer and the millisecond tick. Every wait is bounded: if crystal or PLL does not
/// become ready, the processor keeps its present clock.
void StartClocks();

/// Processor clock that StartClocks() reached.
uint32_t ClockHz();

/// Whether the watchdog's timer caused the last reset.
bool WatchdogFired();

/// Starts the watchdog: 1 s without FeedWatchdog() resets the chip.
void StartWatchdog();
void FeedWatchdog();

/// Microseconds since reset, from the chip's timer.
class TimerClock final : public hal::Clock {
 public:
  uint64_t NowUs() const override;
};

/// UART0. Reception is interrupt-driven; the processor sleeps meanwhile.
class Uart0 final : public hal::Uart {
 public:
  /// Sets the divider for `baud` and starts to receive.
  void Open(uint32_t baud);

  /// See cortex::AwaitMessage().
  void Wait(uint32_t timeout_ms);

  /// Reads the bytes received so far, at most `capacity`.
  size_t Read(uint8_t* buffer, size_t capacity);

  /// Returns false if the transmitter takes no byte for 1 ms, which a UART at a working baud rate never does.
  bool Write(const uint8_t* data, size_t size) override;

  /// Bytes lost because the interrupt came too late or the buffer was full.
  uint32_t Overruns() const override;
};

}  // namespace hil::rp2040
