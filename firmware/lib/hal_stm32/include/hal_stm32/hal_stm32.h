// STM32F405 and STM32F446 at register level: USART2 at PA2 and PA3, the port behind a Nucleo's ST-Link; clock tree, independent
// watchdog. Register addresses and fields: ST RM0090 (F405) and RM0390 (F446).
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"

namespace hil::stm32 {

inline constexpr uint32_t kRxBuffer = 4096;          ///< bytes that may be in flight to the board
inline constexpr uint32_t kUploadBytes = 24 * 1024;  ///< longest model that can be uploaded, with its vectors

/// Flash wait states, PLL to 168 MHz from the internal 16 MHz oscillator, and the millisecond tick. Every wait is bounded: if
/// the PLL does not lock, the processor stays at 16 MHz.
void StartClocks();

/// Processor clock that StartClocks() reached.
uint32_t ClockHz();

/// Whether the independent watchdog caused the last reset. Clears the flag.
bool WatchdogFired();

/// Starts the independent watchdog: 1 s without FeedWatchdog() resets the chip. It cannot be stopped.
void StartWatchdog();
void FeedWatchdog();

/// USART2. Reception is interrupt-driven; the processor sleeps meanwhile.
class Usart2 final : public hal::Uart {
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

}  // namespace hil::stm32
