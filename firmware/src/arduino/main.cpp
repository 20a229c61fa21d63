// The board behind the Arduino API, with the model compiled in. Wiring only.

#include <Arduino.h>

#include "board/board.h"
#include "board/built_config.h"
#include "board_engine/board_engine.h"
#include "hal_arduino/hal_arduino.h"
#include "policy/flashed_model.h"

namespace {

hil::arduino::StreamUart uart(Serial);
hil::arduino::MicrosClock wall_clock;
hil::arduino::LedActuator led;
hil::arduino::BoardSystem board_system;
uint8_t received[HIL_RX_BUFFER];

// HIL_UPLOAD_BYTES: longest upload; the board reserves twice as much memory. 0: no uploads.
#if HIL_UPLOAD_BYTES > 0
hil::Place WithUploads(hil::Place place, size_t number) {
  alignas(16) static uint8_t memory[2][HIL_UPLOAD_BYTES];
  place.memory = memory[number];
  place.capacity = HIL_UPLOAD_BYTES;
  return place;
}
#endif

hil::Board& TheBoard() {
  hil::ServerConfig config = hil::BuiltConfig();
  config.identity.clock_hz = static_cast<uint32_t>(F_CPU);
  config.identity.rx_buffer = HIL_RX_BUFFER;
#if HIL_UPLOAD_BYTES > 0
  static hil::Board board(config, {&uart, &wall_clock, &led, &board_system}, WithUploads(hil::FirstPlace(), 0),
                          WithUploads(hil::SecondPlace(), 1));
#else
  static hil::Board board(config, {&uart, &wall_clock, &led, &board_system}, hil::FirstPlace());
#endif
  return board;
}

}  // namespace

void setup() {
  Serial.begin(HIL_BAUD);
  led.Begin();
  TheBoard().Start(hil::FlashedModel(), hil::hal::ResetCause::kUnknown);
}

void loop() { TheBoard().Step(received, uart.Read(received, sizeof received)); }
