// The board on an emulated MPS2 or MPS3 machine, with the model compiled in. Wiring only.

#include "board/board.h"
#include "board/built_config.h"
#include "board_engine/board_engine.h"
#include "hal_mps/hal_mps.h"
#include "policy/flashed_model.h"

namespace {

#if defined(HIL_MACHINE_MPS2)
constexpr size_t kUploadBytes = 256 * 1024;
#else
constexpr size_t kUploadBytes = 160 * 1024;
#endif

uint8_t received[hil::mps::kRxBuffer];

/// What an upload is received into: nothing that a start would have to clear.
alignas(16) __attribute__((section(".noinit"))) uint8_t upload_memory[2][kUploadBytes];

hil::Place WithUploads(hil::Place place, size_t number) {
  place.memory = upload_memory[number];
  place.capacity = kUploadBytes;
  return place;
}

}  // namespace

int main() {
  static hil::mps::CmsdkUart uart;
  static hil::mps::FpgaClock clock;
  static hil::hal::NoActuator actuator;
  static hil::mps::CortexSystem system;
  hil::mps::FpgaClock::Start();

  hil::ServerConfig config = hil::BuiltConfig();
  config.identity.clock_hz = hil::mps::ClockHz();
  config.identity.rx_buffer = hil::mps::kRxBuffer;
  config.identity.ram = hil::mps::StaticRamBytes();
  config.identity.flash = hil::mps::ImageBytes();
  config.watchdog_ms = hil::mps::WatchdogMs(config.watchdog_ms);

  static hil::Board board(config, {&uart, &clock, &actuator, &system}, WithUploads(hil::FirstPlace(), 0),
                          WithUploads(hil::SecondPlace(), 1));
  uart.Open(HIL_BAUD);
  board.Start(hil::FlashedModel(), hil::mps::CortexSystem::Cause(), hil::VerifiesAtStart());
  for (;;) {
    uart.Wait(board.MsToNextEvent());
    board.Step(received, uart.Read(received, sizeof received));
  }
}
