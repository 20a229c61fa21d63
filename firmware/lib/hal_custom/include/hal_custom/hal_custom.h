// HAL of a board of a user's own, over the five functions of five.h. The HIL_... values come from the board's file.
#pragma once

#include <cstdint>

#include "hal_cortex/port.h"
#include "hal_custom/five.h"

namespace hil::custom {

inline constexpr uint32_t kRxBuffer = HIL_RX_BUFFER;        ///< bytes that may be in flight to the board
inline constexpr uint32_t kUploadBytes = HIL_UPLOAD_BYTES;  ///< longest model that can be uploaded, with its vectors

inline void StartClocks() {}  // OpenPort() starts them: one function of the user's does both
inline uint32_t ClockHz() { return HIL_CLOCK_HZ; }
inline void StartWatchdog() { FeedWatchdog(); }

void OpenPort(uint32_t baud);

using Port = cortex::Port<kRxBuffer, OpenPort, Send, FeedWatchdog, 100>;

}  // namespace hil::custom
