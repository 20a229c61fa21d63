// The five functions that a Cortex-M board of your own supplies; docs/custom-board.md. Start-up, vectors, the clock (SysTick at
// clock_hz of the board's file), buffers and the reset are shared.
#pragma once

#include <cstdint>

namespace hil::custom {

/// Sets the processor's clock to clock_hz of the board's file and opens the port at `baud` bits per second, 8N1, with its receive
/// interrupt enabled in the port. The interrupt controller is enabled by the caller.
void Start(uint32_t baud);

/// Takes one received byte; false if there is none. Called from the receive interrupt until it returns false; it also clears
/// what raised the interrupt.
bool Receive(uint8_t* byte);

/// Sends one byte; false while the transmitter has no room.
bool Send(uint8_t byte);

/// Whether the hardware watchdog caused the last reset, and clears that flag; false without a watchdog.
bool WatchdogFired();

/// Feeds the hardware watchdog; the first call starts it. Called at least once a millisecond while the board waits; it must last
/// at least 1 s. Empty without a watchdog.
void FeedWatchdog();

}  // namespace hil::custom
