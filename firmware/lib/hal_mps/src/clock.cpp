#include "hal_mps/hal_mps.h"
#include "registers.h"

namespace hil::mps {

namespace {

constexpr uint32_t kUsPer100Hz = 10'000;

}  // namespace

uint32_t ClockHz() { return kClockHz; }

void StartClocks() {
  fpga::Prescale() = kFpgaClockHz / 1'000'000 - 1;
  fpga::Counter() = 0;
  fpga::Counter100Hz() = 0;
}

uint64_t FpgaClock::NowUs() const {
  // The fine counter wraps every 71 minutes; the coarse one, in units of 10 ms, extends it.
  const uint64_t coarse_us = uint64_t{fpga::Counter100Hz()} * kUsPer100Hz;
  const uint32_t fine_us = fpga::Counter();
  const int32_t difference = static_cast<int32_t>(fine_us - static_cast<uint32_t>(coarse_us));
  return coarse_us + static_cast<uint64_t>(static_cast<int64_t>(difference));
}

InstructionCounter::InstructionCounter() {
  cortex::SysTickControl() = 0;
  cortex::SysTickReload() = cortex::kSysTickMax;
  cortex::SysTickValue() = 0;
  cortex::SysTickControl() = cortex::kSysTickRun & ~cortex::kSysTickInterrupt;
}

uint64_t InstructionCounter::Elapsed() const {
  constexpr uint64_t kInstructionsPerSecond = 1'000'000'000;
  // It starts at 0, and goes on at its maximum.
  return ((0u - cortex::SysTickValue()) & cortex::kSysTickMax) * kInstructionsPerSecond / kClockHz;
}

bool InstructionCounter::Overflowed() const { return (cortex::SysTickControl() & cortex::kSysTickWrapped) != 0; }

}  // namespace hil::mps
