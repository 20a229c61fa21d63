#include "hal_cortex/system.h"

#include "hal_cortex/core.h"

extern "C" {
extern uint32_t hil_image_start, hil_image_end;  // of what is loaded: code, constants and the initial values of variables
extern uint32_t hil_data_start, hil_bss_end;
extern uint32_t hil_stack_limit, hil_stack_top;
}

namespace hil::cortex {

namespace {

constexpr uint32_t kRequestedNote = 0x52455354;
constexpr uint32_t kRunningNote = 0x52554E21;

/// Survives a reset, not a power cycle.
__attribute__((section(".noinit"))) volatile uint32_t note;

/// Written by the kinds of balance_hil.boards that emulate a board.
struct Options {
  uint32_t mark;
  uint32_t watchdog_ms;
  uint32_t fault;
};

constexpr uint32_t kOptionsMark = 0x4F505431;

__attribute__((section(".options"), used)) volatile Options options;

uint32_t BytesBetween(const uint32_t* from, const uint32_t* to) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
}

}  // namespace

void System::Reboot() {
  note = kRequestedNote;
  ResetChip();
}

hal::ResetCause System::Cause(bool watchdog_fired) {
  const uint32_t found = note;
  note = kRunningNote;
  if (found == kRequestedNote) return hal::ResetCause::kRequested;
  if (watchdog_fired) return hal::ResetCause::kWatchdog;
  return found == kRunningNote ? hal::ResetCause::kUnknown : hal::ResetCause::kPowerOn;
}

uint32_t ImageBytes() { return BytesBetween(&hil_image_start, &hil_image_end); }

uint32_t StaticRamBytes() { return BytesBetween(&hil_data_start, &hil_bss_end); }

uint32_t System::StackHighWater() const {
  const uint32_t* lowest = &hil_stack_limit;
  while (*lowest == kStackPaint && lowest != &hil_stack_top) ++lowest;
  return BytesBetween(lowest, &hil_stack_top);
}

uint32_t WatchdogMs(uint32_t fallback) { return options.mark == kOptionsMark ? options.watchdog_ms : fallback; }

uint32_t FaultNumber() { return options.mark == kOptionsMark ? options.fault : 0; }

}  // namespace hil::cortex
