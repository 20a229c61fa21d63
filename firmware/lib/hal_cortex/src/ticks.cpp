#include "hal_cortex/ticks.h"

namespace hil::cortex {

namespace {

volatile uint32_t milliseconds = 0;
uint32_t cycles_per_ms = 1;

bool TickIsPending() { return (InterruptControl() & kSysTickPending) != 0; }

}  // namespace

extern "C" void SysTickHandler() { milliseconds = milliseconds + 1; }

void StartTicks(uint32_t clock_hz) {
  cycles_per_ms = clock_hz / 1000;
  SysTickReload() = cycles_per_ms - 1;
  SysTickValue() = 0;
  SysTickControl() = kSysTickRun;
}

uint32_t Ticks() { return milliseconds; }

uint64_t TickClock::NowUs() const {
  uint32_t ms = 0;
  uint32_t left = 0;
  bool pending = false;
  do {  // the counter may wrap meanwhile, and its interrupt may not have been taken yet
    ms = milliseconds;
    pending = TickIsPending();
    left = SysTickValue();
  } while (ms != milliseconds || pending != TickIsPending());
  if (pending) ++ms;
  if (ms < last_ms_) ++wraps_;
  last_ms_ = ms;
  return ((uint64_t{wraps_} << 32) + ms) * 1000 + (cycles_per_ms - 1 - left) * 1000 / cycles_per_ms;
}

}  // namespace hil::cortex
