// RP2040 (Raspberry Pi Pico) at register level: UART0 at GP0 and GP1, clock tree, timer, watchdog. Register addresses and fields:
// the RP2040 datasheet.
#pragma once

#include <cstdint>

#include "hal_cortex/port.h"

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

void OpenUart0(uint32_t baud);
bool SendUart0(uint8_t byte);

/// A byte takes the transmitter less than the two ticks, at least a millisecond, at any working baud rate.
using Uart0 = cortex::Port<kRxBuffer, OpenUart0, SendUart0, FeedWatchdog, 2>;

}  // namespace hil::rp2040
