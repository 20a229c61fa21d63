// HAL of Arm's MPS2 and MPS3 boards, which QEMU emulates: CMSDK UART, FPGA counters, SysTick.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"

namespace hil::mps {

inline constexpr uint32_t kRxBuffer = 4096;  ///< bytes that may be in flight to the board
#if defined(HIL_MACHINE_MPS2)
inline constexpr uint32_t kUploadBytes = 256 * 1024;  ///< longest model that can be uploaded, with its vectors
#else
inline constexpr uint32_t kUploadBytes = 160 * 1024;
#endif

/// UART0. Reception is interrupt-driven; the processor sleeps meanwhile.
class CmsdkUart final : public hal::Uart {
 public:
  /// Sets the divider for `baud` and starts to receive.
  void Open(uint32_t baud);

  /// Sleeps until data is available, at most `timeout_ms` (UINT32_MAX: no limit). Spurious wakeups are possible.
  void Wait(uint32_t timeout_ms);

  /// Reads the bytes received so far, at most `capacity`.
  size_t Read(uint8_t* buffer, size_t capacity);

  /// Waits up to 100 ms for buffer space, then drops the reply and, without waiting, the next ones until there is space again.
  bool Write(const uint8_t* data, size_t size) override;

  uint32_t Overruns() const override;

 private:
  bool WaitForRoom();

  bool congested_ = false;
  mutable uint32_t overruns_ = 0;  // from a flag of the UART: all losses between two reads count as one
};

/// Microseconds since reset, from two counters of the FPGA: a fine one that wraps, and a coarse one that does not.
class FpgaClock final : public hal::Clock {
 public:
  uint64_t NowUs() const override;
};

/// Counts instructions under QEMU's `-icount shift=0`. Uses SysTick, as CmsdkUart::Wait() does.
class InstructionCounter {
 public:
  /// Starts to count.
  InstructionCounter();

  /// Instructions since construction, accurate to about 40; at most 5e8.
  uint64_t Elapsed() const;

  /// Whether there were more than it counts, since construction or the last call.
  bool Overflowed() const;
};

/// Sets the FPGA's fine counter to 1 MHz and both counters to zero.
void StartClocks();

/// Processor clock of this machine.
uint32_t ClockHz();

/// These machines have no watchdog that the firmware uses.
inline bool WatchdogFired() { return false; }
inline void StartWatchdog() {}

}  // namespace hil::mps
