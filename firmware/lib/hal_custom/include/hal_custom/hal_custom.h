// HAL of a board of a user's own, over the five functions of five.h. The HIL_... values come from the board's file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hal/hal.h"
#include "hal_custom/five.h"

namespace hil::custom {

inline constexpr uint32_t kRxBuffer = HIL_RX_BUFFER;        ///< bytes that may be in flight to the board
inline constexpr uint32_t kUploadBytes = HIL_UPLOAD_BYTES;  ///< longest model that can be uploaded, with its vectors

inline void StartClocks() {}  // Port::Open() starts them: one function of the user's does both
inline uint32_t ClockHz() { return HIL_CLOCK_HZ; }
inline void StartWatchdog() { FeedWatchdog(); }

/// The port. Reception is interrupt-driven; the processor sleeps meanwhile.
class Port final : public hal::Uart {
 public:
  void Open(uint32_t baud);

  /// See cortex::AwaitMessage().
  void Wait(uint32_t timeout_ms);

  /// Reads the bytes received so far, at most `capacity`.
  size_t Read(uint8_t* buffer, size_t capacity);

  /// Returns false if the transmitter takes no byte for 100 ms.
  bool Write(const uint8_t* data, size_t size) override;

  /// Bytes lost because the buffer was full.
  uint32_t Overruns() const override;
};

}  // namespace hil::custom
