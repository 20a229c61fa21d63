// Build-time configuration of an image: build_info.h, if the build writes one, and the compiler flags.
//
//   HIL_BAUD 921600     bits per second of the port       HIL_TEXT_LINE 1     0: text lines are disabled
#pragma once

#include "server/server.h"

#if __has_include("build_info.h")
#include "build_info.h"
#endif
#ifndef HIL_FIRMWARE_COMMIT
#define HIL_FIRMWARE_COMMIT "unknown"
#endif
#ifndef HIL_BOARD_NAME
#define HIL_BOARD_NAME "own"
#endif
#ifndef HIL_PROCESSOR
#define HIL_PROCESSOR "unknown"
#endif
#ifndef HIL_BAUD
#define HIL_BAUD 921600
#endif
#ifndef HIL_TEXT_LINE
#define HIL_TEXT_LINE 1
#endif

namespace hil {

inline ServerConfig BuiltConfig() {
  ServerConfig config;
  config.identity.firmware_commit = HIL_FIRMWARE_COMMIT;
  config.identity.board = HIL_BOARD_NAME;
  config.identity.processor = HIL_PROCESSOR;
  config.text_line = HIL_TEXT_LINE != 0;
  return config;
}

}  // namespace hil
