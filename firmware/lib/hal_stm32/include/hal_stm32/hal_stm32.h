// STM32F405 and STM32F446 at register level: USART2 at PA2 and PA3, the port behind a Nucleo's ST-Link; clock tree, timer 5,
// independent watchdog. Register addresses and fields: ST RM0090 (F405) and RM0390 (F446).
#pragma once

#include <cstdint>

#include "hal_cortex/port.h"

namespace hil::stm32 {

inline constexpr uint32_t kRxBuffer = 4096;          ///< bytes that may be in flight to the board
inline constexpr uint32_t kUploadBytes = 24 * 1024;  ///< longest model that can be uploaded, with its vectors

/// Flash wait states, PLL to 168 MHz from the internal 16 MHz oscillator, the millisecond tick, and the timer. Every wait is
/// bounded: if the PLL does not lock, the processor stays at 16 MHz.
void StartClocks();

/// Microseconds since StartClocks(), with a resolution of 1 us.
class TimerClock final : public hal::Clock {
 public:
  uint64_t NowUs() const override;
};

/// Processor clock that StartClocks() reached.
uint32_t ClockHz();

/// Whether the independent watchdog caused the last reset. Clears the flag.
bool WatchdogFired();

/// Starts the independent watchdog: 1 s without FeedWatchdog() resets the chip. It cannot be stopped.
void StartWatchdog();
void FeedWatchdog();

void OpenUsart2(uint32_t baud);
bool SendUsart2(uint8_t byte);

/// A byte takes the transmitter less than the two ticks, at least a millisecond, at any working baud rate.
using Usart2 = cortex::Port<kRxBuffer, OpenUsart2, SendUsart2, FeedWatchdog, 2>;

}  // namespace hil::stm32
