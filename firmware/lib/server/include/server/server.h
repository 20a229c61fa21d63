// The protocol server: everything between received bytes and sent bytes. Knows no board, no engine and no operating system.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frame/decoder.h"
#include "frame/encoder.h"
#include "hal/hal.h"
#include "server/models.h"
#include "server/upload.h"
#include "server/watchdog.h"

namespace hil {

/// What the board says of itself in INFO. Strings are terminated and outlive the server.
struct Identity {
  const char* firmware_commit = "";
  const char* board = "";
  const char* processor = "";
  uint32_t clock_hz = 0;   ///< 0 = unknown, as below
  uint32_t rx_buffer = 0;  ///< bytes
  uint32_t ram = 0;        ///< bytes, without what is kept free for uploads
  uint32_t flash = 0;      ///< bytes
};

/// Everything that is fixed when the board starts.
struct ServerConfig {
  Identity identity;
  uint32_t watchdog_ms = protocol::kWatchdogMs;
};

/// The machine around the server.
struct Peripherals {
  hal::Uart* uart;
  const hal::Clock* clock;
  hal::Actuator* actuator;
  hal::System* system;
};

/// Answers requests in the order in which they arrive; each gets exactly one reply, with its own sequence number.
class Server {
 public:
  /// The model that runs has been loaded, or failed to: then INFO and the answer to every inference say why. `models` outlives
  /// it.
  Server(const ServerConfig& config, const Peripherals& peripherals, Models* models)
      : config_(config), hw_(peripherals), models_(*models), upload_(models), watchdog_(config.watchdog_ms) {}

  /// Puts the actuators in the safe state and sends READY, and a line end, so that READY is a line of its own to a host that
  /// reads lines.
  void Boot(hal::ResetCause cause);

  /// To be called whenever bytes have arrived, and with `size` 0 when none have for MsToNextEvent(). Answers what is complete.
  void Step(const uint8_t* data, size_t size);

  /// How long Step() need not be called when nothing arrives, in milliseconds, rounded up; UINT32_MAX: for ever.
  uint32_t MsToNextEvent() const;

 private:
  void HandleEvent(Decoder::Event event);
  void HandleFrame(const FrameView& frame);
  void HandleLine(const StringView& line);

  template <typename Request>
  void Dispatch(const FrameView& frame);
  void Handle(const protocol::Hello& request, const FrameView& frame);
  void Handle(const protocol::Infer& request, const FrameView& frame);
  void Handle(const protocol::InferInt8& request, const FrameView& frame);
  void Handle(const protocol::Tensor& request, const FrameView& frame);
  void Handle(const protocol::SelfTest& request, const FrameView& frame);
  void Handle(const protocol::StatsRequest& request, const FrameView& frame);
  void Handle(const protocol::SetWatchdog& request, const FrameView& frame);
  void Handle(const protocol::Echo& request, const FrameView& frame);
  void Handle(const protocol::Reset& request, const FrameView& frame);
  void Handle(const protocol::LoadBegin& request, const FrameView& frame);
  void Handle(const protocol::LoadData& request, const FrameView& frame);
  void Handle(const protocol::LoadCommit& request, const FrameView& frame);
  void Handle(const protocol::LoadAbort& request, const FrameView& frame);

  void ReplyAction(const Outcome& outcome, const FrameView& frame);
  void ReplyProgress(const Outcome& outcome, uint32_t transfer, const FrameView& frame);
  void ReplyError(const Outcome& outcome, const FrameView& frame);
  void ReplyLineError(Status status);
  template <typename Message>
  void Reply(const Message& message, const FrameView& frame);
  void Act();
  void Send(const uint8_t* data, size_t size);

  ServerConfig config_;
  Peripherals hw_;
  Models& models_;
  Upload upload_;
  Watchdog watchdog_;
  Decoder decoder_;
  Encoder encoder_;
  uint64_t received_us_ = 0;     // when the bytes that are being handled arrived
  bool identified_ = false;      // a HELLO has been answered since this model runs
  bool needs_delimiter_ = true;  // what was sent last did not end with 0x00
  uint32_t requests_ = 0;
  uint32_t errors_ = 0;
  uint32_t dropped_replies_ = 0;
  uint8_t out_[1 + kMaxFrame + 2] = {};  // an optional delimiter, a frame and its 0x00, a line end after READY; or a text line
};

}  // namespace hil
