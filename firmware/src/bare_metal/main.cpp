// The board without an operating system, on an emulated or a physical chip, with the model compiled in. Wiring only.

#include "board/board.h"
#include "board/built_config.h"
#include "board_engine/board_engine.h"
#include "chip.h"
#include "hal_cortex/system.h"
#include "policy/flashed_model.h"

namespace {

uint8_t received[chip::kRxBuffer];

/// Buffers of uploads; not cleared at start-up.
alignas(16) __attribute__((section(".noinit"))) uint8_t upload_memory[2][chip::kUploadBytes];

hil::Place WithUploads(hil::Place place, size_t number) {
  place.memory = upload_memory[number];
  place.capacity = chip::kUploadBytes;
  return place;
}

}  // namespace

int main() {
  static chip::Uart uart;
  static chip::Clock clock;
  static hil::hal::NoActuator actuator;
  static hil::cortex::System system;
  chip::StartClocks();

  hil::ServerConfig config = hil::BuiltConfig();
  config.identity.clock_hz = chip::ClockHz();
  config.identity.rx_buffer = chip::kRxBuffer;
  config.identity.ram = hil::cortex::StaticRamBytes();
  config.identity.flash = hil::cortex::ImageBytes();
  config.watchdog_ms = hil::cortex::WatchdogMs(config.watchdog_ms);

  static hil::Board board(config, {&uart, &clock, &actuator, &system}, WithUploads(hil::FirstPlace(), 0),
                          WithUploads(hil::SecondPlace(), 1));
  uart.Open(HIL_BAUD);
  board.Start(hil::FlashedModel(), hil::cortex::System::Cause(chip::WatchdogFired()), hil::VerifiesAtStart());
  chip::StartWatchdog();
  for (;;) {
    uart.Wait(board.MsToNextEvent());
    board.Step(received, uart.Read(received, sizeof received));
  }
}
