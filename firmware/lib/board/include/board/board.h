// A board that a host drives: models, protocol and watchdog in one object, on top of the HAL.
//
//   hil::Board board(config, {&uart, &clock, &actuator, &system}, hil::FirstPlace(), hil::SecondPlace());
//   board.Start(hil::FlashedModel(), cause);
//   for (;;) board.Step(received, uart.Read(received, sizeof received));
#pragma once

#include "server/server.h"

namespace hil {

class Board {
 public:
  /// Everything that is pointed to outlives the board. Without a second place it takes no uploads.
  Board(const ServerConfig& config, const Peripherals& peripherals, const Place& first, const Place& second = {})
      : models_(first, second, peripherals.clock), server_(config, peripherals, &models_) {}

  /// Loads the model of the image, puts the actuators in the safe state and sends READY. If the model fails to load, INFO holds
  /// the reason and every inference is refused. `verify`: see Policy::Load().
  void Start(const ModelImage& image, hal::ResetCause cause, bool verify = true) {
    models_.LoadFlashed(image, verify);
    server_.Boot(cause);
  }

  /// See Server::Step().
  void Step(const uint8_t* data, size_t size) { server_.Step(data, size); }

  /// See Server::MsToNextEvent().
  uint32_t MsToNextEvent() const { return server_.MsToNextEvent(); }

  /// The active policy.
  const Policy& policy() const { return models_.running(); }

 private:
  Models models_;
  Server server_;
};

}  // namespace hil
