// The board on an emulated MPS2 or MPS3 machine, with the model compiled in. Wiring only.

#include "board_engine/board_engine.h"
#include "build_info.h"
#include "hal_mps/hal_mps.h"
#include "model.h"
#include "server/server.h"

namespace {

constexpr uint32_t kBaud = 921'600;

uint8_t received[hil::mps::kRxBuffer];

}  // namespace

int main() {
  static hil::mps::CmsdkUart uart;
  static hil::mps::FpgaClock clock;
  static hil::mps::NoActuator actuator;
  static hil::mps::CortexSystem system;
  hil::mps::FpgaClock::Start();

  hil::ServerConfig config;
  config.golden = {&hil_model::kSelfTestInput[0][0], &hil_model::kSelfTestOutput[0][0], hil_model::kSelfTestCount};
  static hil::Inference inference(hil::BoardEngine(), &clock);
  inference.Load({hil_model::kModel, hil_model::kModelSize}, hil::BoardArena());
  inference.Verify(config.golden);

  config.identity.firmware_commit = HIL_FIRMWARE_COMMIT;
  config.identity.board = HIL_BOARD_NAME;
  config.identity.processor = HIL_PROCESSOR;
  config.identity.model_id = hil_model::kModelId;
  config.identity.clock_hz = hil::mps::ClockHz();
  config.identity.rx_buffer = hil::mps::kRxBuffer;
  config.identity.ram = hil::mps::StaticRamBytes();
  config.identity.flash = hil::mps::ImageBytes();
  config.watchdog_ms = hil::mps::WatchdogMs(hil::protocol::kWatchdogMs);

  static hil::Server server(config, {&uart, &clock, &actuator, &system}, &inference);
  uart.Open(kBaud);
  server.Boot(hil::mps::CortexSystem::Cause());
  for (;;) {
    uart.Wait(server.MsToNextEvent());
    server.Step(received, uart.Read(received, sizeof received));
  }
}
