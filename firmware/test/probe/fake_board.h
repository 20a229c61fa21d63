// A server on a machine that exists only in a test: the clock stands still until it is set, and everything that happens is
// printed.
#pragma once

#include <iostream>
#include <memory>
#include <vector>

#include "hex.h"
#include "server/server.h"

namespace hil::probe {

/// Adds and negates: output = {clip(x0 + x1), -x2}. Its three operators give the input, 1100 values, and nothing.
class FakeEngine final : public Engine {
 public:
  static constexpr uint64_t kInferenceUs = 40;

  explicit FakeEngine(uint64_t* now_us) : now_us_(now_us) {}

  void SetStatus(Status status) { status_ = status; }

  Status Init(const ByteSpan&, const Arena& arena) override {
    info_.name = "fake";
    info_.version = "1";
    info_.n_obs = 3;
    info_.n_act = 2;
    info_.n_ops = 3;
    info_.input = {0.5f, 1};
    info_.output = {0.25f, -3};
    info_.arena_used = 100;
    info_.arena_size = static_cast<uint32_t>(arena.size);
    return status_;
  }

  Status Infer(const int8_t* input, int8_t* output) override {
    *now_us_ += kInferenceUs;
    for (int i = 0; i < 3; ++i) input_[i] = input[i];
    const int sum = input[0] + input[1];
    output[0] = static_cast<int8_t>(sum > INT8_MAX ? INT8_MAX : sum < INT8_MIN ? INT8_MIN : sum);
    output[1] = static_cast<int8_t>(input[2] == INT8_MIN ? INT8_MAX : -input[2]);
    return status_;
  }

  Status Tensor(uint16_t op, TensorView* values) override {
    if (op == 2) return Status::kNotSupported;
    *values = op == 0 ? TensorView(input_, 3) : TensorView(large_, 1100);
    return Status::kOk;
  }

  const EngineInfo& info() const override { return info_; }
  const char* message() const override { return "as the test wants it"; }
  uint32_t detail() const override { return 77; }

 private:
  uint64_t* now_us_;
  Status status_ = Status::kOk;
  EngineInfo info_;
  int8_t input_[3] = {};
  int8_t large_[1100] = {};
};

/// Prints what the server does to its machine.
class FakeMachine final : public hal::Uart, public hal::Clock, public hal::Actuator, public hal::System {
 public:
  bool Write(const uint8_t* data, size_t size) override {
    if (!blocked) std::cout << "sent " << ToHex(data, size) << '\n';
    return !blocked;
  }
  uint32_t Overruns() const override { return 5; }
  uint32_t StackHighWater() const override { return 2; }
  uint64_t NowUs() const override { return now_us; }
  void Apply(const float* action, size_t count) override {
    std::cout << "apply";
    for (size_t i = 0; i < count; ++i) std::cout << ' ' << action[i];
    std::cout << '\n';
  }
  void EnterSafeState() override { std::cout << "safe\n"; }
  void Reboot() override { std::cout << "reboot\n"; }

  uint64_t now_us = 0;
  bool blocked = false;
};

/// Server, engine and machine together.
class FakeBoard {
 public:
  void Boot(uint32_t watchdog_ms, int load_status) {
    machine_ = std::make_unique<FakeMachine>();
    engine_ = std::make_unique<FakeEngine>(&machine_->now_us);
    inference_ = std::make_unique<Inference>(engine_.get(), machine_.get());
    SetEngineStatus(load_status);
    static const uint8_t kModel[4] = {};
    // "No model" is what the server itself makes of an empty one.
    inference_->Load({kModel, load_status == static_cast<int>(Status::kNoModel) ? 0u : sizeof(kModel)}, {nullptr, 4096});
    const GoldenVectors golden{kGoldenInputs, kGoldenOutputs, 3};
    if (load_status == static_cast<int>(Status::kSelfTestFailed)) {
      SetEngineStatus(static_cast<int>(Status::kOk));
      inference_->Load({kModel, sizeof(kModel)}, {nullptr, 4096});
      inference_->Verify(golden);
    }
    ServerConfig config;
    config.identity = {"0123456789ab", "fake board", "none", "cafe00000000", 600, 1, 3, 4};
    config.golden = golden;
    config.watchdog_ms = watchdog_ms;
    server_ = std::make_unique<Server>(config, Peripherals{machine_.get(), machine_.get(), machine_.get(), machine_.get()},
                                       inference_.get());
    server_->Boot(hal::ResetCause::kPowerOn);
  }

  void Feed(const std::vector<uint8_t>& bytes) { server_->Step(bytes.data(), bytes.size()); }
  void SetTime(uint64_t now_us) { machine_->now_us = now_us; }
  uint32_t NextMs() const { return server_->MsToNextEvent(); }
  void BlockUart(bool blocked) { machine_->blocked = blocked; }
  void SetEngineStatus(int status) { engine_->SetStatus(static_cast<Status>(status)); }

 private:
  // The second vector is wrong on purpose.
  static constexpr int8_t kGoldenInputs[] = {1, 2, 3, 4, 5, 6, -128, -128, -128};
  static constexpr int8_t kGoldenOutputs[] = {3, -3, 9, 6, -128, 127};

  std::unique_ptr<FakeMachine> machine_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<Inference> inference_;
  std::unique_ptr<Server> server_;
};

}  // namespace hil::probe
