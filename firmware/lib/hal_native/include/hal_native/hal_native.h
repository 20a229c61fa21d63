// HAL on Linux: a process whose UART is a socket or the master side of a pseudo-terminal.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"

namespace hil::native {

/// A pseudo-terminal or socket that this process inherited.
class FdUart final : public hal::Uart {
 public:
  /// Result of Wait().
  enum class Wake : uint8_t {
    kData,     ///< Read() has bytes
    kTimeout,  ///< nothing arrived
    kClosed,   ///< the port is closed
  };

  explicit FdUart(int fd) : fd_(fd) {}

  /// Makes the descriptor non-blocking and, on a terminal, 8-bit clean without echo. Returns false when `fd` is not open.
  bool Open();

  /// Sleeps until bytes arrive or `timeout_ms` (UINT32_MAX: no limit) has passed.
  Wake Wait(uint32_t timeout_ms);

  /// Reads the bytes received so far, at most `capacity`; 0 if there are none. Sets `*closed` at the end of the port.
  size_t Read(uint8_t* buffer, size_t capacity, bool* closed);

  /// Sends in one write(). Waits up to 100 ms for buffer space, as a UART with flow control would, then drops the reply and,
  /// without waiting, the next ones until there is space again. A host that never reads slows the board down but cannot block it.
  bool Write(const uint8_t* data, size_t size) override;

  /// A pseudo-terminal blocks its writer instead of losing bytes.
  uint32_t Overruns() const override { return 0; }

 private:
  int fd_;
  bool congested_ = false;
};

/// Monotonic time since this process image started.
class MonotonicClock final : public hal::Clock {
 public:
  MonotonicClock() : start_us_(SinceBootUs()) {}
  uint64_t NowUs() const override { return SinceBootUs() - start_us_; }

 private:
  static uint64_t SinceBootUs();

  uint64_t start_us_;
};

/// Reboots with exec(): only the inherited descriptors survive.
class ProcessSystem final : public hal::System {
 public:
  /// Paints the unused stack for StackHighWater(). To be constructed in main().
  explicit ProcessSystem(char** arguments);
  void Reboot() override;
  uint32_t StackHighWater() const override;

  /// Why this process image was started.
  static hal::ResetCause Cause();

 private:
  char** arguments_;
};

/// Sizes of the program, in bytes, without the shared libraries: what a microcontroller's flash and static RAM would hold.
uint32_t ImageBytes();
uint32_t StaticRamBytes();

}  // namespace hil::native
