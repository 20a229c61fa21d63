#include "hal_cortex/system.h"
#include "hal_cortex/ticks.h"
#include "hal_stm32/hal_stm32.h"
#include "registers.h"

namespace hil::stm32 {

namespace {

constexpr uint32_t kInternalHz = 16'000'000;
constexpr uint32_t kPllHz = 168'000'000;
// 16 MHz / 16 * 336 / 2 (PLLP = 0); the 48 MHz output (/ 7) is unused. Bits 28 to 30 are PLLR of the F446, and reserved with the
// same value on the F405.
constexpr uint32_t kPllSettings = 16u | (336u << 6) | (7u << 24) | (2u << 28);
constexpr uint32_t kTries = 100'000;  // tens of milliseconds at 16 MHz; the PLL locks within 300 us
constexpr uint32_t kWatchdogMs = 1000;

constexpr uint32_t kEmulatedTimerHz = 1'000'000'000;  // of QEMU's timers, which no register divides

uint32_t clock_hz = kInternalHz;

/// Millisecond tick, and timer 5 at 1 MHz, which does not depend on how punctually its interrupts are taken.
void StartTimers(uint32_t timer_hz) {
  cortex::StartTicks(clock_hz);
  rcc::Apb1Enable() |= rcc::kTimer5;
  timer5::Prescaler() = timer_hz / 1'000'000 - 1;
  timer5::Event() = timer5::kUpdate;  // takes the prescaler, and sets the counter to zero
  timer5::Control() = timer5::kEnable;
}

bool Await(volatile uint32_t& status, uint32_t mask, uint32_t wanted) {
  for (uint32_t tries = 0; tries < kTries; ++tries) {
    if ((status & mask) == wanted) return true;
  }
  return false;
}

}  // namespace

void StartClocks() {
  if ((rcc::Control() & rcc::kInternalReady) == 0) {
    clock_hz = kPllHz;  // emulators without a clock tree run at the maximum rate
    StartTimers(kEmulatedTimerHz);
    return;
  }
  FlashAccess() = kFlashCaches | kFiveWaitStates;
  rcc::Pll() = kPllSettings;
  rcc::Control() |= rcc::kPllOn;
  if (Await(rcc::Control(), rcc::kPllReady, rcc::kPllReady)) {
    rcc::Configuration() = rcc::kApb1By4 | rcc::kApb2By2 | rcc::kSwitchToPll;
    if (Await(rcc::Configuration(), rcc::kSwitchStatusPll, rcc::kSwitchStatusPll)) clock_hz = kPllHz;
  }
  StartTimers(clock_hz == kPllHz ? kPllHz / 2 : clock_hz);  // twice the bus clock where that is divided
}

uint64_t TimerClock::NowUs() const {
  static uint64_t now_us = 0;
  now_us += timer5::Counter() - static_cast<uint32_t>(now_us);
  return now_us;
}

uint32_t ClockHz() { return clock_hz; }

bool WatchdogFired() {
  const bool fired = (rcc::Status() & rcc::kWatchdogReset) != 0;
  rcc::Status() |= rcc::kClearFlags;
  return fired;
}

void StartWatchdog() {
  iwdg::Key() = iwdg::kStart;
  iwdg::Key() = iwdg::kUnlock;
  iwdg::Prescaler() = iwdg::kDivideBy32;
  iwdg::Reload() = kWatchdogMs;
  Await(iwdg::Status(), ~0u, 0);
  FeedWatchdog();
}

void FeedWatchdog() {
  iwdg::Key() = iwdg::kFeed;
  [[maybe_unused]] const uint64_t noticed = TimerClock().NowUs();  // the counter wraps after 71 minutes
}

}  // namespace hil::stm32

void hil::cortex::ResetChip() {
  __asm__ volatile("dsb" ::: "memory");
  ResetControl() = kResetRequest;
  for (;;) {
  }
}

void hil::cortex::StartBootloader() {}
