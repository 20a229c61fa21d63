// An engine in another process, reached through a socket: how the native board runs the official TensorFlow Lite Micro.
//
// request:  command u8 | model u8 | size u32 | data    reply:  status u8 | detail u32 | size u32 | data    little-endian
//
//   command   data                                     reply data
//   1 init    arena size u32 (0 = default), model      RemoteInfo, or a message when the status is not ok
//   2 infer   raw values [n_obs]                       raw values [n_act]
//   3 tensor  op u16                                   raw values [size]
//
// `model`: number of the model; the helper holds several.
// The helper is balance_hil.runtimes.tflm_worker. It ends when the socket closes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/engine.h"

namespace hil {

/// Forwards every call to the helper and waits for its answer.
class RemoteEngine final : public Engine {
 public:
  /// `name` is the engine's name in INFO; `fd` is a connected stream socket, which several engines may share; `model` is the
  /// number of this one.
  RemoteEngine(const char* name, int fd, uint8_t model) : fd_(fd), model_(model) { info_.name = name; }

  /// `arena.size` is passed on, 0 meaning the helper's own choice; `arena.data` is not used: the helper has its own memory.
  Status Init(const ByteSpan& model, const Arena& arena) override;
  Status Infer(const int8_t* input, int8_t* output) override;
  Status Tensor(uint16_t op, TensorView* values) override;

  const EngineInfo& info() const override { return info_; }
  const char* message() const override { return message_; }
  uint32_t detail() const override { return detail_; }

 private:
  enum class Command : uint8_t { kInit = 1, kInfer = 2, kTensor = 3 };

  struct Part {
    const void* data;
    size_t size;
  };

  Status Call(Command command, const Part& head, const Part& body);
  Status ReceiveReply();
  Status Lost();
  Status Malformed();
  bool SendAll(const uint8_t* data, size_t size);
  bool ReceiveAll(uint8_t* data, size_t size);

  static constexpr size_t kMaxReply = 1 << 22;  // a layer of a million values

  int fd_;
  uint8_t model_;
  EngineInfo info_;
  uint32_t detail_ = 0;
  std::unique_ptr<uint8_t[]> reply_{new uint8_t[kMaxReply]};  // not filled: pages that no reply reaches take no memory
  size_t reply_size_ = 0;
  char version_[64] = {};
  char message_[256] = {};
};

}  // namespace hil
