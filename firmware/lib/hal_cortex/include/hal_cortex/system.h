// Restart, its cause, and memory in use.
#pragma once

#include <cstdint>

#include "hal/hal.h"

namespace hil::cortex {

class System final : public hal::System {
 public:
  void Reboot() override;
  uint32_t StackHighWater() const override;

  /// Why the processor started, from a note that a reset leaves in memory and from what the chip says of its watchdog. To be
  /// called once.
  static hal::ResetCause Cause(bool watchdog_fired = false);
};

/// Resets the processor with its peripherals. Each chip's HAL defines it.
[[noreturn]] void ResetChip();

/// Sizes of the linked image, in bytes.
uint32_t ImageBytes();
uint32_t StaticRamBytes();

/// The watchdog's time that an emulator wrote to the start of RAM, `fallback` where nothing was written.
uint32_t WatchdogMs(uint32_t fallback);

/// The number of the fault of the gallery that an emulator wrote there; 0: none.
uint32_t FaultNumber();

}  // namespace hil::cortex
