// The board on an emulated MPS2 or MPS3 machine, with the model compiled in. Wiring only.

#include "board_engine/board_engine.h"
#include "build_info.h"
#include "hal_mps/hal_mps.h"
#include "model.h"
#include "server/server.h"

namespace {

constexpr uint32_t kBaud = 921'600;

#if defined(HIL_MACHINE_MPS2)
constexpr size_t kUploadBytes = 256 * 1024;
#else
constexpr size_t kUploadBytes = 160 * 1024;
#endif

uint8_t received[hil::mps::kRxBuffer];

/// What an upload is received into: nothing that a start would have to clear.
alignas(16) __attribute__((section(".noinit"))) uint8_t upload_memory[2][kUploadBytes];

}  // namespace

int main() {
  static hil::mps::CmsdkUart uart;
  static hil::mps::FpgaClock clock;
  static hil::mps::NoActuator actuator;
  static hil::mps::CortexSystem system;
  hil::mps::FpgaClock::Start();

  const hil::GoldenVectors golden{&hil_model::kSelfTestInput[0][0], &hil_model::kSelfTestOutput[0][0], hil_model::kSelfTestCount};
  static hil::Inference flashed(hil::BoardEngine(), &clock);
  static hil::Inference second(hil::SecondEngine(), &clock);
  flashed.Load({hil_model::kModel, hil_model::kModelSize}, hil::BoardArena());
  flashed.Verify(golden);
  static hil::Models models({&flashed, hil::BoardArena(), upload_memory[0], kUploadBytes},
                            {&second, hil::SecondArena(), upload_memory[1], kUploadBytes}, hil_model::kModelId, golden);

  hil::ServerConfig config;
  config.identity.firmware_commit = HIL_FIRMWARE_COMMIT;
  config.identity.board = HIL_BOARD_NAME;
  config.identity.processor = HIL_PROCESSOR;
  config.identity.clock_hz = hil::mps::ClockHz();
  config.identity.rx_buffer = hil::mps::kRxBuffer;
  config.identity.ram = hil::mps::StaticRamBytes();
  config.identity.flash = hil::mps::ImageBytes();
  config.watchdog_ms = hil::mps::WatchdogMs(hil::protocol::kWatchdogMs);

  static hil::Server server(config, {&uart, &clock, &actuator, &system}, &models);
  uart.Open(kBaud);
  server.Boot(hil::mps::CortexSystem::Cause());
  for (;;) {
    uart.Wait(server.MsToNextEvent());
    server.Step(received, uart.Read(received, sizeof received));
  }
}
