// The board behind the Arduino API, with the model compiled in. Wiring only.

#include <Arduino.h>

#include "board_engine/board_engine.h"
#include "build_info.h"
#include "hal_arduino/hal_arduino.h"
#include "model.h"
#include "server/server.h"

namespace {

constexpr uint32_t kBaud = 921'600;

hil::arduino::StreamUart uart(Serial);
hil::arduino::MicrosClock wall_clock;
hil::arduino::LedActuator led;
hil::arduino::BoardSystem board_system;
uint8_t received[HIL_RX_BUFFER];

const hil::GoldenVectors golden{&hil_model::kSelfTestInput[0][0], &hil_model::kSelfTestOutput[0][0], hil_model::kSelfTestCount};

// HIL_UPLOAD_BYTES: longest upload that the board takes; it keeps twice as much for them. 0: none.
#if HIL_UPLOAD_BYTES > 0
alignas(16) uint8_t upload_memory[2][HIL_UPLOAD_BYTES];

hil::ModelSlot Slot(hil::Inference* inference, const hil::Arena& arena, size_t number) {
  return {inference, arena, upload_memory[number], HIL_UPLOAD_BYTES};
}
#endif

hil::Inference& TheInference() {
  static hil::Inference inference(hil::BoardEngine(), &wall_clock);
  return inference;
}

hil::Models& TheModels() {
#if HIL_UPLOAD_BYTES > 0
  static hil::Inference second(hil::SecondEngine(), &wall_clock);
  static hil::Models models(Slot(&TheInference(), hil::BoardArena(), 0), Slot(&second, hil::SecondArena(), 1),
                            hil_model::kModelId, golden);
#else
  static hil::Models models({&TheInference(), {}, nullptr, 0}, {}, hil_model::kModelId, golden);
#endif
  return models;
}

hil::ServerConfig Config() {
  hil::ServerConfig config;
  config.identity.firmware_commit = HIL_FIRMWARE_COMMIT;
  config.identity.board = HIL_BOARD_NAME;
  config.identity.processor = HIL_PROCESSOR;
  config.identity.clock_hz = static_cast<uint32_t>(F_CPU);
  config.identity.rx_buffer = HIL_RX_BUFFER;
  return config;
}

hil::Server& TheServer() {
  static hil::Server server(Config(), {&uart, &wall_clock, &led, &board_system}, &TheModels());
  return server;
}

}  // namespace

void setup() {
  Serial.begin(kBaud);
  led.Begin();
  TheInference().Load({hil_model::kModel, hil_model::kModelSize}, hil::BoardArena());
  TheInference().Verify(golden);
  TheServer().Boot(hil::hal::ResetCause::kUnknown);
}

void loop() { TheServer().Step(received, uart.Read(received, sizeof received)); }
