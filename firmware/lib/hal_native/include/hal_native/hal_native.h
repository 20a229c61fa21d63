// The machine on Linux: a process whose UART is the master side of a pseudo-terminal.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"

namespace hil::native {

/// A pseudo-terminal or socket that this process inherited.
class FdUart final : public hal::Uart {
 public:
  /// What Wait() saw.
  enum class Wake : uint8_t {
    kData,     ///< Read() has bytes
    kTimeout,  ///< nothing arrived
    kClosed,   ///< nobody can ever write to this port again
  };

  explicit FdUart(int fd) : fd_(fd) {}

  /// Makes the descriptor non-blocking and, on a terminal, 8-bit clean without echo. Returns false when `fd` is not open.
  bool Open();

  /// Sleeps until bytes arrive or `timeout_ms` (UINT32_MAX: for ever) has passed.
  Wake Wait(uint32_t timeout_ms);

  /// Takes what has arrived, at most `capacity` bytes. Returns 0 when there is nothing; `*closed` tells the end of the port.
  size_t Read(uint8_t* buffer, size_t capacity, bool* closed);

  /// Sends in one write(). When the reader is slow it waits up to 100 ms for room, as a UART with flow control would; then the
  /// reply is given up, and so are the next ones at once until there is room again. So a host that writes without reading slows
  /// the board down but cannot lock it up.
  bool Write(const uint8_t* data, size_t size) override;

  /// A pseudo-terminal holds its writer back instead of losing bytes.
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

/// Reboots by replacing the process image with a fresh one of itself: nothing survives but the inherited descriptors.
class ProcessSystem final : public hal::System {
 public:
  /// Marks the unused stack, so that what main() and everything below it use can be told: call it there.
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
