// A robot that a host drives: protocol, watchdog and text line on any board with an Arduino core.
//
// The host sends observations; the outputs of the policy are returned to it and applied to the motors here. When observations
// stop, the watchdog calls EnterSafeState(). Copy model.h from the bundle that `hil export` wrote to include/.

#include <Arduino.h>

#include "board/board.h"
#include "board/built_config.h"
#include "engine_int8/flashed_kernels.h"
#include "engine_int8/int8_engine.h"
#include "hal_arduino/hal_arduino.h"
#include "policy/flashed_model.h"

namespace {

/// Your motors, one PWM pin for each output of the policy.
class Motors final : public hil::hal::Actuator {
 public:
  void Apply(const float* action, size_t count) override {
    for (size_t i = 0; i < count && i < 2; ++i) analogWrite(kPins[i], static_cast<int>(127.5f + 127.5f * action[i]));
  }
  void EnterSafeState() override {
    for (const uint8_t pin : kPins) analogWrite(pin, 127);
  }

 private:
  static constexpr uint8_t kPins[] = {5, 6};
};

alignas(16) uint8_t arena[8 * 1024];
uint8_t received[256];
hil::Int8Engine engine(hil::FlashedKernels());
hil::arduino::StreamUart uart(Serial);
hil::arduino::MicrosClock wall_clock;
hil::arduino::BoardSystem board_system;
Motors motors;

hil::Board& TheBoard() {
  static hil::Board board(hil::BuiltConfig(), {&uart, &wall_clock, &motors, &board_system}, {&engine, {arena, sizeof arena}});
  return board;
}

}  // namespace

void setup() {
  Serial.begin(HIL_BAUD);
  TheBoard().Start(hil::FlashedModel(), hil::hal::ResetCause::kUnknown);
}

void loop() { TheBoard().Step(received, uart.Read(received, sizeof received)); }
