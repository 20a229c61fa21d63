// A server on simulated hardware: the clock advances only when it is set, and every effect is printed.
#pragma once

#include <iostream>
#include <memory>
#include <vector>

#include "board/board.h"
#include "hex.h"

namespace hil::probe {

/// Adds and negates: output = {clip(x0 + x1), -x2}. The outputs of its three operators: the input, 1100 values, none.
class FakeEngine final : public Engine {
 public:
  static constexpr uint64_t kOperatorUs[] = {5, 25, 8};

  explicit FakeEngine(uint64_t* now_us) : now_us_(now_us) {}

  void SetStatus(Status status) { status_ = status; }
  void SetTime(uint64_t inference_us) { inference_us_ = inference_us; }

  /// The first byte of a model selects its kind: 'X' has one input more, 'O' more than the protocol supports, 'Z' a scale of
  /// zero, 'H' a huge one; 'R' is refused, 'W' adds 1 to the first output, 'E' runs only whole.
  Status Init(const ByteSpan& model, const Arena& arena) override {
    kind_ = static_cast<char>(model.data[0]);
    info_.name = "fake";
    info_.version = "1";
    info_.n_obs = kind_ == 'X' ? 4 : kind_ == 'O' ? kMaxObs + 1 : 3;
    info_.n_act = 2;
    info_.n_ops = 3;
    info_.input = {0.5f, 1};
    info_.output = {kind_ == 'Z' ? 0.0f : kind_ == 'H' ? 1e37f : 0.25f, -3};
    info_.arena_used = 100;
    info_.arena_size = static_cast<uint32_t>(arena.size);
    if (kind_ == 'R') return Status::kUnsupportedOperator;
    return status_;
  }

  Status Infer(const int8_t* input, int8_t* output) override {
    *now_us_ += inference_us_;
    for (int i = 0; i < 3; ++i) input_[i] = input[i];
    const int sum = input[0] + input[1];
    output[0] = static_cast<int8_t>(sum > INT8_MAX ? INT8_MAX : sum < INT8_MIN ? INT8_MIN : sum);
    output[1] = static_cast<int8_t>(input[2] == INT8_MIN ? INT8_MAX : -input[2]);
    if (kind_ == 'W') ++output[0];
    return status_;
  }

  Status Tensor(uint16_t op, TensorView* values) override {
    if (op == 2) return Status::kNotSupported;
    for (size_t i = 0; i < sizeof large_; ++i) large_[i] = static_cast<int8_t>(i % 128);
    *values = op == 0 ? TensorView(input_, 3) : TensorView(large_, 1100);
    return Status::kOk;
  }

  Status RunOperator(uint16_t op) override {
    if (kind_ == 'E') return Status::kNotSupported;
    *now_us_ += kOperatorUs[op];
    return Status::kOk;
  }

  const EngineInfo& info() const override { return info_; }
  const char* message() const override { return "as the test wants it"; }
  uint32_t detail() const override { return 77; }

 private:
  uint64_t* now_us_;
  uint64_t inference_us_ = 40;
  Status status_ = Status::kOk;
  char kind_ = 0;
  EngineInfo info_;
  int8_t input_[3] = {};
  int8_t large_[1100] = {};
};

/// Prints what the server does to the hardware.
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
  void EnterBootloader() override { std::cout << "boot loader\n"; }

  uint64_t now_us = 0;
  bool blocked = false;
};

/// Server, engines and hardware.
class FakeBoard {
 public:
  static constexpr size_t kUploadBytes = 1024;

  void Boot(uint32_t watchdog_ms, int load_status) {
    machine_ = std::make_unique<FakeMachine>();
    for (auto& engine : engines_) engine = std::make_unique<FakeEngine>(&machine_->now_us);
    const bool self_test_fails = load_status == static_cast<int>(Status::kSelfTestFailed);
    SetEngineStatus(self_test_fails ? 0 : load_status);
    static const uint8_t kModel[4] = {};
    ModelImage image;
    // For an empty model the policy itself returns kNoModel.
    image.model = {kModel, load_status == static_cast<int>(Status::kNoModel) ? 0u : sizeof(kModel)};
    image.id = "cafe00000000";
    image.golden = {kGoldenInputs, kGoldenOutputs, 3};
    if (normalized_) image.normalization = {{kMean, 3}, {kInverseStd, 3}, 2.0f};
    ServerConfig config;
    config.identity = {"0123456789ab", "fake board", "none", 600, 1, 3, 4};
    config.watchdog_ms = watchdog_ms;
    board_ = std::make_unique<Board>(config, Peripherals{machine_.get(), machine_.get(), machine_.get(), machine_.get()}, At(0),
                                     has_room_ ? At(1) : Place{});
    board_->Start(image, hal::ResetCause::kPowerOn, self_test_fails);
  }

  void Feed(const std::vector<uint8_t>& bytes) { board_->Step(bytes.data(), bytes.size()); }
  void SetTime(uint64_t now_us) { machine_->now_us = now_us; }
  uint32_t NextMs() const { return board_->MsToNextEvent(); }
  void BlockUart(bool blocked) { machine_->blocked = blocked; }
  void SetEngineStatus(int status) { engines_[0]->SetStatus(static_cast<Status>(status)); }
  void SetEngineTime(uint64_t inference_us) { engines_[0]->SetTime(inference_us); }

  /// Take effect with the next Boot().
  void SetRoom(bool has_room) { has_room_ = has_room; }
  void SetNormalized(bool normalized) { normalized_ = normalized; }

 private:
  // The second vector is wrong on purpose.
  static constexpr int8_t kGoldenInputs[] = {1, 2, 3, 4, 5, 6, -128, -128, -128};
  static constexpr int8_t kGoldenOutputs[] = {3, -3, 9, 6, -128, 127};

  static constexpr float kMean[] = {1.0f, -2.0f, 0.25f};
  static constexpr float kInverseStd[] = {0.5f, 3.0f, 1e30f};

  Place At(size_t number) {
    // Of exactly the announced size, so that the sanitizer detects an overrun.
    upload_[number] = std::make_unique<uint8_t[]>(kUploadBytes);
    return {engines_[number].get(), {nullptr, 4096}, upload_[number].get(), kUploadBytes};
  }

  bool has_room_ = true;
  bool normalized_ = false;
  std::unique_ptr<FakeMachine> machine_;
  std::unique_ptr<FakeEngine> engines_[2];
  std::unique_ptr<uint8_t[]> upload_[2];
  std::unique_ptr<Board> board_;
};

}  // namespace hil::probe
