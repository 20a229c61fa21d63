#include "hal_cortex/system.h"
#include "hal_cortex/ticks.h"
#include "hal_rp2040/hal_rp2040.h"
#include "registers.h"

namespace hil::rp2040 {

namespace {

constexpr uint32_t kCrystalHz = 12'000'000;
constexpr uint32_t kPllHz = 125'000'000;
constexpr uint32_t kPllFeedback = 125;                      // 12 MHz * 125 = 1500 MHz
constexpr uint32_t kPllPostDividers = 6u << 16 | 2u << 12;  // / 6 / 2
constexpr uint32_t kRingOscillatorHz = 6'500'000;           // nominal: without a crystal nothing is exact
constexpr uint32_t kTries = 1'000'000;
constexpr uint32_t kWatchdogLoad = 2 * 1'000'000;  // 1 s: it counts down twice a microsecond (erratum RP2040-E1)

// The boot ROM's half-words, and the name of its function (RP2040 datasheet, 2.8.3).
constexpr uint32_t kRomTable = 0x14, kRomLookup = 0x18;
constexpr uint32_t kResetToUsbBoot = 'U' | 'B' << 8;

uint32_t clock_hz = kRingOscillatorHz;

/// Address that the ROM holds at `where`.
uintptr_t RomAddress(uint32_t where) {
  __asm__("" : "+r"(where));  // the compiler takes constants this low for a null pointer
  return *reinterpret_cast<const volatile uint16_t*>(where);
}

bool Await(volatile uint32_t& status, uint32_t mask) {
  for (uint32_t tries = 0; tries < kTries; ++tries) {
    if ((status & mask) == mask) return true;
  }
  return false;
}

bool StartCrystal() {
  xosc::Startup() = xosc::kStartupDelay;
  xosc::Control() = xosc::kEnable;
  if (!Await(xosc::Status(), xosc::kStable)) return false;
  clocks::RefControl() = clocks::kRefCrystal;
  return Await(clocks::RefSelected(), 1u << clocks::kRefCrystal);
}

bool StartPll() {
  resets::Clear() = resets::kPllSys;
  if (!Await(resets::Done(), resets::kPllSys)) return false;
  pll::Control() = 1;  // reference divider
  pll::Feedback() = kPllFeedback;
  pll::PowerClear() = pll::kDown | pll::kVcoDown;
  if (!Await(pll::Control(), pll::kLocked)) return false;
  pll::PostDividers() = kPllPostDividers;
  pll::PowerClear() = pll::kPostDividersDown;
  clocks::SysControl() = clocks::kSysAux;
  return Await(clocks::SysSelected(), 1u << clocks::kSysAux);
}

}  // namespace

void StartClocks() {
  if (StartCrystal()) clock_hz = StartPll() ? kPllHz : kCrystalHz;
  clocks::PeriControl() = clocks::kPeriEnable;
  watchdog::Tick() = kCrystalHz / 1'000'000 | watchdog::kTickEnable;
  resets::Clear() = resets::kTimer;
  Await(resets::Done(), resets::kTimer);
  cortex::StartTicks(clock_hz);
}

uint32_t ClockHz() { return clock_hz; }

bool WatchdogFired() { return (watchdog::Reason() & watchdog::kByTimer) != 0; }

void StartWatchdog() {
  PsmWatchdogSelect() = kAllButOscillators;
  watchdog::BootMagic() = 0;  // normal boot
  FeedWatchdog();
  watchdog::ControlSet() = watchdog::kEnable;
}

void FeedWatchdog() { watchdog::Load() = kWatchdogLoad; }

uint64_t TimerClock::NowUs() const {
  uint32_t high = timer::High();
  for (;;) {
    const uint32_t low = timer::Low();
    const uint32_t again = timer::High();
    if (again == high) return uint64_t{high} << 32 | low;
    high = again;
  }
}

}  // namespace hil::rp2040

void hil::cortex::ResetChip() {
  using namespace hil::rp2040;
  watchdog::ControlClear() = watchdog::kEnable;
  PsmWatchdogSelect() = kAllButOscillators;
  watchdog::BootMagic() = 0;
  watchdog::ControlSet() = watchdog::kTrigger;
  for (;;) {
  }
}

void hil::cortex::StartBootloader() {
  using namespace hil::rp2040;
  using Lookup = uintptr_t (*)(uintptr_t table, uint32_t name);
  using ResetToUsbBoot = void (*)(uint32_t activity_pins, uint32_t disabled_interfaces);
  const uintptr_t found = reinterpret_cast<Lookup>(RomAddress(kRomLookup))(RomAddress(kRomTable), kResetToUsbBoot);
  if (found == 0) return;
  DisableInterrupts();
  SysTickControl() = 0;
  watchdog::ControlClear() = watchdog::kEnable;
  reinterpret_cast<ResetToUsbBoot>(found)(0, 0);
}
