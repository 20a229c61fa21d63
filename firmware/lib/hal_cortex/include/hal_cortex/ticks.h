// A millisecond clock from SysTick, for chips without a driver for their timers.
#pragma once

#include <cstdint>

#include "hal/hal.h"
#include "hal_cortex/core.h"

namespace hil::cortex {

/// Starts an interrupt each millisecond. `clock_hz` is the processor's, at most 16 GHz.
void StartTicks(uint32_t clock_hz);

/// Milliseconds since StartTicks(); wraps after 49 days.
uint32_t Ticks();

/// Microseconds since StartTicks(), with interrupts enabled. To be asked at least once in 49 days.
class TickClock final : public hal::Clock {
 public:
  uint64_t NowUs() const override;

 private:
  mutable uint32_t last_ms_ = 0;
  mutable uint32_t wraps_ = 0;
};

/// Sleeps until `ring` holds a message, or `timeout_ms` have passed (UINT32_MAX: no limit), or bytes without a delimiter have
/// waited for 100 ms. `on_tick` runs at least once a millisecond: it feeds the hardware watchdog.
template <typename ReceiveRing, typename OnTick>
void AwaitMessage(const ReceiveRing& ring, uint32_t timeout_ms, OnTick on_tick) {
  constexpr uint32_t kGatherMs = 100;
  const uint32_t started = Ticks();
  uint32_t gathering_since = started;
  bool gathering = false;
  DisableInterrupts();
  for (;;) {
    on_tick();
    const uint32_t now = Ticks();
    if (ring.HasMessage() || (timeout_ms != UINT32_MAX && now - started >= timeout_ms)) break;
    if (ring.Size() != 0 && !gathering) {
      gathering = true;
      gathering_since = now;
    }
    if (gathering && now - gathering_since >= kGatherMs) break;
    SleepOnce();
  }
  EnableInterrupts();
}

}  // namespace hil::cortex
