// The machine on Arm's MPS2 and MPS3 boards, which QEMU emulates: CMSDK UART, FPGA counters, SysTick.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"

namespace hil::mps {

inline constexpr uint32_t kRxBuffer = 4096;  ///< bytes that may be on their way to the board
#if defined(HIL_MACHINE_MPS2)
inline constexpr uint32_t kUploadBytes = 256 * 1024;  ///< longest model that can be uploaded, with its vectors
#else
inline constexpr uint32_t kUploadBytes = 160 * 1024;
#endif

/// UART0. Received bytes come in by interrupt; the processor sleeps while there are none.
class CmsdkUart final : public hal::Uart {
 public:
  /// Sets the divider for `baud` and starts to receive.
  void Open(uint32_t baud);

  /// Sleeps until there is data to read, at most `timeout_ms` (UINT32_MAX: no limit). It may return early with
  /// nothing.
  void Wait(uint32_t timeout_ms);

  /// Takes what has arrived, at most `capacity` bytes.
  size_t Read(uint8_t* buffer, size_t capacity);

  /// Waits up to 100 ms for buffer space, then drops the reply and, without waiting, the next ones until there is space again.
  bool Write(const uint8_t* data, size_t size) override;

  uint32_t Overruns() const override;

 private:
  bool WaitForRoom();

  bool congested_ = false;
  mutable uint32_t overruns_ = 0;  // a flag of the UART: what it lost between two looks counts as one
};

/// Microseconds since reset, from two counters of the FPGA: one is fine and wraps, the other is coarse and does not.
class FpgaClock final : public hal::Clock {
 public:
  uint64_t NowUs() const override;
};

/// Counts instructions where QEMU runs with `-icount shift=0`. Uses SysTick: not while CmsdkUart waits.
class InstructionCounter {
 public:
  /// Starts to count.
  InstructionCounter();

  /// Instructions since then, to about 40; at most half a thousand million.
  uint64_t Elapsed() const;
};

/// Sets the FPGA's fine counter to 1 MHz and both counters to zero.
void StartClocks();

/// Processor clock of this machine.
uint32_t ClockHz();

/// These machines have no watchdog that the firmware uses.
inline bool WatchdogFired() { return false; }
inline void StartWatchdog() {}

}  // namespace hil::mps
