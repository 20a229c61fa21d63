// TensorFlow Lite Micro inside the firmware. The library itself is not part of this repository: see docs/boards.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/engine.h"
#include "engine_tflm/operators.h"
#include "engine_tflm/tflm_api.h"

namespace hil {

/// Runs a model with the interpreter of TFLM: no heap, everything lives in this object and in the arena.
///
/// Old libraries return kTfLiteOk and wrong values for per-channel weights; Policy::Load() detects that with the golden vectors.
class TflmEngine final : public Engine {
 public:
  /// `operators` registers those that models may have, as FlashedOperators() does. It is called by the first Init().
  explicit constexpr TflmEngine(const tflite::MicroOpResolver* (*operators)()) : operators_(operators) {}

  /// `arena` must be about 600 bytes larger than the resulting info().arena_used: TFLM needs more while it loads. In one that has
  /// room for all of them, tensors are kept for Tensor(); in a smaller one they share memory.
  Status Init(const ByteSpan& model, const Arena& arena) override;
  Status Infer(const int8_t* input, int8_t* output) override;
  Status Tensor(uint16_t op, TensorView* values) override;
  Status RunOperator(uint16_t op) override;

  const EngineInfo& info() const override { return info_; }
  const char* message() const override { return message_; }
  uint32_t detail() const override { return detail_; }

 private:
  /// An operator as the interpreter prepared it, which runs it only together with all others.
  struct Prepared {
    TfLiteNode* node;
    tflm::Invoke invoke;
  };

  friend void tflm::KeepPrepared(TfLiteContext* context, TfLiteNode* node, tflm::Invoke invoke);
  void Keep(TfLiteContext* context, const Prepared& prepared);
  Status CheckModel(const ByteSpan& bytes);
  Status CheckGraph();
  Status CheckOperators();
  Status CheckTensors();
  Status StartInterpreter(const Arena& arena);
  bool Allocates(const Arena& arena, bool keeps_tensors);
  void Describe();
  Status Refuse(Status status, uint32_t detail, const char* message);

  const tflite::MicroOpResolver* (*operators_)();
  const tflite::MicroOpResolver* resolver_ = nullptr;
  const tflite::Model* model_ = nullptr;
  std::optional<tflite::MicroInterpreter> interpreter_;
  TfLiteTensor* input_ = nullptr;
  TfLiteTensor* output_ = nullptr;
  TfLiteContext* context_ = nullptr;
  Prepared* prepared_ = nullptr;  // in the arena, one for each operator
  uint16_t n_prepared_ = 0;
  bool keeps_tensors_ = false;
  bool keeps_state_ = false;  // an operator has variable tensors
  EngineInfo info_;
  const char* message_ = "";
  uint32_t detail_ = 0;
};

}  // namespace hil
