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
/// Old libraries return kTfLiteOk and wrong values for per-channel weights; Policy::Load() detects that with the golden vectors.
class TflmEngine final : public Engine {
 public:
  /// `arena` must be about 600 bytes larger than the resulting info().arena_used: TFLM needs more while it loads.
  Status Init(const ByteSpan& model, const Arena& arena) override;
  Status Infer(const int8_t* input, int8_t* output) override;
  Status Tensor(uint16_t op, TensorView* values) override;
  Status RunOperator(uint16_t op) override;

  const EngineInfo& info() const override { return info_; }
  const char* message() const override { return message_; }
  uint32_t detail() const override { return detail_; }

 private:
  // Only registered operators are linked: those of exported policies.
  static constexpr unsigned int kOperators = 3;
  using Resolver = tflite::MicroMutableOpResolver<kOperators>;

  /// An operator as the interpreter prepared it, which runs it only together with all others.
  struct Prepared {
    TfLiteNode* node;
    TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
  };

  template <int kOperator>
  bool Intercept(tflite::BuiltinOperator code);
  template <int kOperator>
  static TfLiteStatus PrepareAndKeep(TfLiteContext* context, TfLiteNode* node);
  void Keep(TfLiteContext* context, const Prepared& prepared);
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
  TfLiteContext* context_ = nullptr;
  Prepared* prepared_ = nullptr;  // in the arena, one for each operator
  uint16_t n_prepared_ = 0;
  EngineInfo info_;
  const char* message_ = "";
  uint32_t detail_ = 0;
};

}  // namespace hil
