// The protocol server: everything between received bytes and sent bytes. Independent of board, engine and operating system.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frame/decoder.h"
#include "frame/encoder.h"
#include "hal/hal.h"
#include "server/models.h"
#include "server/text_line.h"
#include "server/upload.h"
#include "server/watchdog.h"

namespace hil {

/// Identity of the board in INFO. Strings are NUL-terminated and must outlive the server.
struct Identity {
  const char* firmware_commit = "";
  const char* board = "";
  const char* processor = "";
  uint32_t clock_hz = 0;   ///< 0 = unknown, as below
  uint32_t rx_buffer = 0;  ///< bytes
  uint32_t ram = 0;        ///< bytes, without the memory reserved for uploads
  uint32_t flash = 0;      ///< bytes
};

/// Everything that is fixed when the board starts.
struct ServerConfig {
  Identity identity;
  uint32_t watchdog_ms = protocol::kWatchdogMs;
  bool text_line = true;  ///< whether text lines are enabled
};

/// Hardware that the server uses.
struct Peripherals {
  hal::Uart* uart;
  const hal::Clock* clock;
  hal::Actuator* actuator;
  hal::System* system;
};

/// Answers requests in order; each gets exactly one reply, with its sequence number.
class Server {
 public:
  /// Call Models::LoadFlashed() before Boot(); its failure is reported in INFO and to every inference request. `models` must
  /// outlive the server.
  Server(const ServerConfig& config, const Peripherals& peripherals, Models* models)
      : config_(config),
        hw_(peripherals),
        models_(*models),
        upload_(models),
        watchdog_(config.watchdog_ms),
        text_line_(config.text_line) {}

  /// Puts the actuators in the safe state and sends READY and a line end, so that a host that reads lines receives READY as a
  /// separate line.
  void Boot(hal::ResetCause cause);

  /// To be called when bytes have arrived, and with `size` 0 after MsToNextEvent() without any. Answers the complete requests,
  /// then works on the verification of an upload for about a millisecond.
  void Step(const uint8_t* data, size_t size);

  /// Longest time until the next call of Step() if nothing arrives, in milliseconds, rounded up; UINT32_MAX: no limit.
  uint32_t MsToNextEvent() const;

 private:
  void HandleEvent(Decoder::Event event);
  void HandleFrame();
  void HandleLine(StringView line);

  // One for each request of the protocol: protocol::VisitRequest() calls them.
  void Handle(const protocol::Hello& request);
  void Handle(const protocol::Infer& request);
  void Handle(const protocol::InferInt8& request);
  void Handle(const protocol::Tensor& request);
  void Handle(const protocol::InputData& request);
  void Handle(const protocol::ObservationData& request);
  void Handle(const protocol::InferStored& request);
  void Handle(const protocol::SelfTest& request);
  void Handle(const protocol::Profile& request);
  void Handle(const protocol::StatsRequest& request);
  void Handle(const protocol::SetWatchdog& request);
  void Handle(const protocol::SetTextLine& request);
  void Handle(const protocol::Echo& request);
  void Handle(const protocol::Reset& request);
  void Handle(const protocol::EnterBootloader& request);
  void Handle(const protocol::LoadBegin& request);
  void Handle(const protocol::LoadData& request);
  void Handle(const protocol::LoadCommit& request);
  void Handle(const protocol::LoadAbort& request);

  void BeginSession();
  void HoldActuators();
  void VerifyUpload();
  void ReplyAction(const Outcome& outcome);
  void ReplyInput(const Outcome& outcome, uint32_t offset, uint32_t size);
  protocol::Action ActionReply() const;
  void ReplyProgress(const Outcome& outcome, uint32_t transfer);
  void ReplyError(const Outcome& outcome);
  void ReplyLineError(Status status, bool checksum);
  template <typename Message>
  void Reply(const Message& message);
  void SendFrame(size_t size);
  void SendLine(size_t size, bool checksum);
  void Act();
  bool TakesLines() const { return text_line_ && (!kInPieces || ModelFitsLine()); }
  bool ModelFitsLine() const;
  uint16_t MaxText() const { return TakesLines() ? static_cast<uint16_t>(protocol::kMaxText) : 0; }
  void Send(const uint8_t* data, size_t size);

  ServerConfig config_;
  Peripherals hw_;
  Models& models_;
  Upload upload_;
  Watchdog watchdog_;
  Decoder decoder_;
  Encoder encoder_;
  FrameView frame_;              // the request that is being handled
  uint64_t received_us_ = 0;     // when the bytes that are being handled arrived
  bool identified_ = false;      // a session is open: a HELLO was answered since this model became active
  uint32_t session_ = 0;         // nonce of its HELLO
  bool text_line_;               // lines are answered
  bool held_ = false;            // safe state caused by a session or a new model: a line does not end it
  bool needs_delimiter_ = true;  // the last byte sent was not 0x00
  uint32_t requests_ = 0;
  uint32_t errors_ = 0;
  uint32_t dropped_replies_ = 0;

  // A delimiter, a frame and its 0x00, a line end after READY; or a line of numbers with checksum and line end.
  static constexpr size_t kFrameRoom = 1 + kMaxFrame + 1 + 1;
  static constexpr size_t kLineRoom = kFrameAct * (kMaxNumberText + 1) + 3 + 1;
  uint8_t out_[kFrameRoom > kLineRoom ? kFrameRoom : kLineRoom] = {};
};

}  // namespace hil
