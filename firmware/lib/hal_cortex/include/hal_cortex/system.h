// Restart, its cause, and memory in use.
#pragma once

#include <cstdint>

#include "hal/hal.h"

namespace hil::cortex {

/// Starts the boot loader in the chip's ROM; returns if the chip has none that the firmware can start. Each chip's HAL defines
/// it.
void StartBootloader();

class System final : public hal::System {
 public:
  void Reboot() override;
  void EnterBootloader() override { StartBootloader(); }
  uint32_t StackHighWater() const override;

  /// Reset cause, from a marker in memory that survives a reset and the chip's watchdog flag. To be called once.
  static hal::ResetCause Cause(bool watchdog_fired = false);
};

/// Resets the processor with its peripherals. Each chip's HAL defines it.
[[noreturn]] void ResetChip();

/// Sizes of the linked image, in bytes.
uint32_t ImageBytes();
uint32_t StaticRamBytes();

/// Watchdog timeout that an emulator wrote to the start of RAM; `fallback` if it wrote none.
uint32_t WatchdogMs(uint32_t fallback);

/// Number of the gallery's fault that an emulator wrote there; 0: none.
uint32_t FaultNumber();

}  // namespace hil::cortex
