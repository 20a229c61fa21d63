// A policy: normalize, quantize, infer, dequantize. Sufficient for a control loop without a host; the server uses it, too.
#pragma once

#include <cstdint>

#include "engine/engine.h"
#include "hal/hal.h"
#include "policy/conversion.h"
#include "quantize/normalize.h"

namespace hil {

#if !defined(HIL_MAX_OBS)
#define HIL_MAX_OBS 255
#endif
#if !defined(HIL_MAX_ACT)
#define HIL_MAX_ACT 64
#endif

/// Most bytes of a model's input and of its output, so in int8 most inputs and outputs. The build raises them for a model that
/// has more; see docs/boards.md.
inline constexpr uint32_t kMaxObs = HIL_MAX_OBS;
inline constexpr uint32_t kMaxAct = HIL_MAX_ACT;

inline constexpr uint32_t kFrameObs = 255;  ///< float observations of this length fill a payload
inline constexpr uint32_t kFrameAct = 64;   ///< actions of this length fit a payload and a text line

/// Whether a model may have an input or output that takes several frames. Images without such a model have none of the code.
inline constexpr bool kInPieces = kMaxObs > kFrameObs || kMaxAct > kFrameAct;

/// A status and its detail.
struct Outcome {
  Status status = Status::kOk;
  uint32_t detail = 0;

  bool ok() const { return status == Status::kOk; }
};

/// Inputs and their expected outputs, row-major: bytes of raw values.
struct GoldenVectors {
  const int8_t* inputs = nullptr;   ///< [count, n_obs]
  const int8_t* outputs = nullptr;  ///< [count, n_act]
  uint16_t count = 0;
};

/// A model and its metadata. model.h, the native board's file and an upload hold the same.
struct ModelImage {
  ByteSpan model;
  const char* id = "";  ///< 12 hex digits, NUL-terminated
  uint32_t n_obs = 0;   ///< elements of the model's input; 0: not checked
  uint32_t n_act = 0;   ///< likewise of its output
  ElementType type = ElementType::kInt8;
  Normalization normalization;
  GoldenVectors golden;
};

/// Inference times.
struct InferenceTimes {
  uint32_t count = 0;  ///< since boot, of all models
  uint32_t timed = 0;  ///< of this model
  uint32_t last_us = 0;
  uint32_t min_us = 0;  ///< of this model; 0 before the first
  uint32_t max_us = 0;
};

/// Runs a model and holds its latest input, output and action.
class Policy {
 public:
  /// All arguments must outlive the policy. Without a clock, inferences are not timed.
  explicit Policy(Engine* engine, const hal::Clock* clock = nullptr, Conversion* conversion = &exact_conversion)
      : engine_(engine), clock_(clock), conversion_(conversion) {}

  /// Loads a model, whose memory must outlive its use, and replays its golden vectors: an engine that computes different outputs
  /// must not drive a robot. `verify` = false skips the replay.
  ///
  /// Returns what Engine::Init() and Engine::Infer() return, kNoModel for an empty model, kOtherModel (it has other sizes or
  /// another element type than the image declares; detail: its inputs << 16 | outputs), kSelfTestFailed (detail: number of
  /// mismatches), and kModelInvalid when its input or output has more bytes than kMaxObs and kMaxAct, a scale is not positive or
  /// its values would not be finite, or a normalization is not finite and positive.
  Outcome Load(const ModelImage& image, const Arena& arena, bool verify = true);

  /// Runs the model on an observation. Returns kOk, the status of Load(), kWrongCount, kNonFinite, kInferenceFailed (an output
  /// in float32 is not finite; detail: its index), or that of Engine::Infer().
  Outcome Run(const ArrayView<float>& observation);

  /// Runs the model on the bytes of raw values. Returns what Run() returns; kNonFinite for an input in float32.
  Outcome RunInt8(const ArrayView<int8_t>& input);

  /// Fills a part of input() from bytes of raw values, or from observations; `offset` counts bytes, or observations. Return kOk,
  /// the status of Load(), kWrongOffset (beyond the input; detail: its bytes, or its elements), kNonFinite.
  Outcome Store(uint32_t offset, const ArrayView<int8_t>& values);
  Outcome Store(uint32_t offset, const ArrayView<float>& observations);

  /// Runs the model on input(). Returns what RunInt8() returns.
  Outcome RunStored();

  /// The parts of Run(), in this order, for profiling: none of them counts as an inference. Prepare() fills input(), Infer()
  /// output(), Finish() action(). They return what Run() returns.
  Outcome Prepare(const ArrayView<float>& observation);
  Outcome Infer();
  void Finish() { conversion_->ToValues({output_, output_bytes()}, info().output, action_); }

  /// See Engine::RunOperator().
  Status RunOperator(uint16_t op) { return engine_->RunOperator(op); }

  /// Output of operator `op` in the latest inference. Returns kOk, the status of Load(), kNoInferenceYet, kNoSuchOperator, or
  /// that of Engine::Tensor().
  Outcome Tensor(uint16_t op, TensorView* values);

  /// Number of golden vectors whose outputs differ, and the index of the first.
  struct SelfTestCount {
    uint16_t mismatches = 0;
    uint16_t first_mismatch = UINT16_MAX;
  };

  /// Runs every golden vector. Returns kOk even if outputs differ, the status of Load(), kNoGoldenVectors, or that of
  /// Engine::Infer().
  Outcome SelfTest(SelfTestCount* result);

  /// Runs golden vector `index` and counts it in `result`. Returns what SelfTest() returns.
  Outcome Replay(uint16_t index, SelfTestCount* result);

  /// Completes a Load() without `verify` by the result of the replay: `replayed` is its first failure or kOk. Returns what
  /// Load() returns.
  Outcome Verify(const Outcome& replayed, const SelfTestCount& result);

  /// Continues the inference count of the previous model.
  void ContinueCount(uint32_t inferences) { times_.count = inferences; }

  const Outcome& load_outcome() const { return load_; }
  const ModelImage& image() const { return image_; }
  const EngineInfo& info() const { return engine_->info(); }
  const char* message() const { return load_message_; }
  const InferenceTimes& times() const { return times_; }
  bool has_result() const { return has_result_; }   ///< whether output() and action() are of an inference of this model
  const int8_t* input() const { return input_; }    ///< raw, input_bytes()
  const int8_t* output() const { return output_; }  ///< raw, output_bytes()
  uint32_t input_bytes() const { return info().n_obs * WidthOf(info().input.type); }
  uint32_t output_bytes() const { return info().n_act * WidthOf(info().output.type); }
  const float* action() const { return action_; }  ///< float32 [n_act]

 private:
  Outcome Check();
  Outcome Execute();
  Outcome Refuse(Status status, uint32_t detail, const char* message);

  Engine* engine_;
  const hal::Clock* clock_;
  Conversion* conversion_;
  ModelImage image_;
  Outcome load_{Status::kNoModel, 0};
  const char* load_message_ = "";
  bool has_result_ = false;
  InferenceTimes times_;
  int8_t input_[kMaxObs] = {};
  int8_t output_[kMaxAct] = {};
  float action_[kMaxAct] = {};
};

}  // namespace hil
