// One model behind an engine: quantize, infer, dequantize, and the times it took.
#pragma once

#include <cstdint>

#include "engine/engine.h"
#include "hal/hal.h"
#include "server/conversion.h"

namespace hil {

inline constexpr uint16_t kMaxObs = 255;  ///< float observations of this length fill a payload
inline constexpr uint16_t kMaxAct = 64;

/// A status with the number that belongs to it.
struct Outcome {
  Status status = Status::kOk;
  uint32_t detail = 0;

  bool ok() const { return status == Status::kOk; }
};

/// Golden vectors that an image carries, row-major.
struct GoldenVectors {
  const int8_t* inputs = nullptr;   ///< int8 [count, n_obs]
  const int8_t* outputs = nullptr;  ///< int8 [count, n_act]
  uint16_t count = 0;
};

/// Times of the inferences.
struct InferenceTimes {
  uint32_t count = 0;  ///< since boot, of all models
  uint32_t timed = 0;  ///< of this model
  uint32_t last_us = 0;
  uint32_t min_us = 0;  ///< of this model; 0 before the first
  uint32_t max_us = 0;
};

/// Runs a model and holds its latest input, output and action.
class Inference {
 public:
  /// All three outlive it.
  Inference(Engine* engine, const hal::Clock* clock, Conversion* conversion = &exact_conversion)
      : engine_(engine), clock_(clock), conversion_(conversion) {}

  /// Loads the model into the engine. Returns what Engine::Init() returns, kNoModel for an empty model, and kModelInvalid when
  /// the model has more inputs or outputs than the protocol carries, or a scale that is not positive or beyond a 256th of the
  /// largest float.
  Outcome Load(const ByteSpan& model, const Arena& arena);

  /// Replays golden vectors and takes the model out of service when one comes out wrong: an engine that computes something else
  /// must not drive a robot. Without vectors there is nothing to verify.
  ///
  /// Returns kOk, the status of Load(), kSelfTestFailed (detail: how many vectors came out wrong), or that of Engine::Infer().
  Outcome Verify(const GoldenVectors& vectors);

  /// Runs the model on physical values. Returns kOk, the status of Load(), kWrongCount, kNonFinite, or that of Engine::Infer().
  Outcome Run(const ArrayView<float>& observation);

  /// Runs the model on raw values. Returns kOk, the status of Load(), kWrongCount, or that of Engine::Infer().
  Outcome RunInt8(const ArrayView<int8_t>& input);

  /// Output of operator `op` in the latest inference. Returns kOk, the status of Load(), kNoInferenceYet, kNoSuchOperator, or
  /// that of Engine::Tensor().
  Outcome Tensor(uint16_t op, TensorView* values);

  /// Runs every golden vector. Returns kOk whatever they gave, the status of Load(), kNoGoldenVectors, or that of
  /// Engine::Infer().
  Outcome SelfTest(const GoldenVectors& vectors, protocol::SelfTestResult* result);

  /// Goes on counting where another model stopped.
  void ContinueCount(uint32_t inferences) { times_.count = inferences; }

  const Outcome& load_outcome() const { return load_; }
  const EngineInfo& info() const { return engine_->info(); }
  const char* message() const { return load_message_; }
  const InferenceTimes& times() const { return times_; }
  const int8_t* input() const { return input_; }
  const int8_t* output() const { return output_; }
  const float* action() const { return action_; }

 private:
  Outcome CheckLimits();
  Outcome Execute();

  Engine* engine_;
  const hal::Clock* clock_;
  Conversion* conversion_;
  Outcome load_{Status::kNoModel, 0};
  const char* load_message_ = "";
  bool has_result_ = false;
  InferenceTimes times_;
  int8_t input_[kMaxObs] = {};
  int8_t output_[kMaxAct] = {};
  float action_[kMaxAct] = {};
};

}  // namespace hil
