// TensorFlow Lite Micro inside the firmware. The library itself is not part of this repository: see docs/boards.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/engine.h"
#include "engine_tflm/tflm_api.h"

namespace hil {

/// Runs a model with the interpreter of TFLM: no heap, everything lives in this object and in the arena.
///
/// An old library returns OK and wrong values for weights with one scale per channel. So whoever owns the engine replays golden
/// vectors after Init(): Inference::Verify().
class TflmEngine final : public Engine {
 public:
  /// `arena` must be larger than info().arena_used says afterwards: TFLM needs more while it loads (some 600 bytes more).
  Status Init(const ByteSpan& model, const Arena& arena) override;
  Status Infer(const int8_t* input, int8_t* output) override;
  Status Tensor(uint16_t op, TensorView* values) override;

  const EngineInfo& info() const override { return info_; }
  const char* message() const override { return message_; }
  uint32_t detail() const override { return detail_; }

 private:
  // Only what is registered is linked. These are the operators that exported policies consist of.
  static constexpr unsigned int kOperators = 3;
  using Resolver = tflite::MicroMutableOpResolver<kOperators>;

  Status RegisterOperators();
  Status CheckModel(const ByteSpan& bytes);
  Status CheckGraph();
  Status CheckOperators();
  Status CheckTensors();
  Status StartInterpreter(const Arena& arena);
  void Describe();
  Status Refuse(Status status, uint32_t detail, const char* message);

  bool registered_ = false;
  Resolver resolver_;
  const tflite::Model* model_ = nullptr;
  std::optional<tflite::MicroInterpreter> interpreter_;
  TfLiteTensor* input_ = nullptr;
  TfLiteTensor* output_ = nullptr;
  EngineInfo info_;
  const char* message_ = "";
  uint32_t detail_ = 0;
};

}  // namespace hil
