// The server with the compact engine on simulated hardware, which checks everything that the server sends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "board/board.h"
#include "engine_int8/int8_engine.h"
#include "frame/decoder.h"
#include "frame/encoder.h"

namespace hil::fuzz {

/// Ends the process, which the fuzzer reports together with the input, unless `holds`.
void Require(bool holds, const char* what);

/// Splits the output of the server into frames and lines, and requires that there is nothing else.
class Machine final : public hal::Uart, public hal::Clock, public hal::Actuator, public hal::System {
 public:
  bool Write(const uint8_t* data, size_t size) override;
  uint32_t Overruns() const override { return 0; }
  uint64_t NowUs() const override { return now_us += 100; }  // so that the verification of an upload takes several slices
  void Apply(const float* action, size_t count) override;
  void EnterSafeState() override { safe = true; }
  void Reboot() override {}

  mutable uint64_t now_us = 0;
  bool blocked = false;
  bool safe = false;
  uint32_t replies = 0;  // frames and lines
  FrameView last;        // the latest frame; its payload lies in `payload`
  std::vector<uint8_t> payload;

 private:
  Decoder decoder_;
};

/// A board that runs a small policy and accepts uploads.
class Board {
 public:
  static constexpr size_t kArenaBytes = 4096;
  static constexpr size_t kUploadBytes = 8192;

  Board();

  Machine& machine() { return machine_; }
  const hil::Board& board() const { return *board_; }
  const ModelImage& image() const { return board_->policy().image(); }

  /// Sends one valid frame of any type and payload.
  void Send(uint8_t type, const uint8_t* payload, size_t size);

  template <typename Message>
  void Send(const Message& message) {
    std::vector<uint8_t> payload(protocol::kMaxPayload);
    PayloadWriter writer(payload.data(), payload.size());
    message.Write(&writer);
    Require(!writer.overflowed(), "a message of the target's own is too long");
    Send(static_cast<uint8_t>(Message::kType), payload.data(), writer.size());
  }

  void Step(const uint8_t* data, size_t size);

  /// Output of the active model for a fixed input.
  std::vector<int8_t> Fingerprint();

 private:
  Machine machine_;
  Int8Engine engines_[2] = {Int8Engine(&int8::kAllKernels), Int8Engine(&int8::kAllKernels)};
  // On the heap and of exactly the announced size, so that the address sanitizer detects an overrun.
  std::unique_ptr<uint8_t[]> arenas_[2];
  std::unique_ptr<uint8_t[]> uploads_[2];
  std::unique_ptr<hil::Board> board_;
  uint16_t seq_ = 0;
};

}  // namespace hil::fuzz
