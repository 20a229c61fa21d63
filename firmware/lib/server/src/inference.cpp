#include "server/inference.h"

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace hil {
namespace {

// A code and its zero point differ by 255 at most.
constexpr float kMaxScale = std::numeric_limits<float>::max() / 256;

}  // namespace

Outcome Inference::Load(const ByteSpan& model, const Arena& arena) {
  load_message_ = "";
  has_result_ = false;
  if (model.size == 0) return load_ = {Status::kNoModel, 0};
  const Status status = engine_->Init(model, arena);
  if (status != Status::kOk) {
    load_message_ = engine_->message();
    return load_ = {status, engine_->detail()};
  }
  return load_ = CheckLimits();
}

Outcome Inference::CheckLimits() {
  const EngineInfo& model = info();
  if (model.n_obs == 0 || model.n_obs > kMaxObs || model.n_act == 0 || model.n_act > kMaxAct) {
    load_message_ = "the model has no input, no output, or more of them than the protocol carries";
    return {Status::kModelInvalid, 0};
  }
  for (const QuantParams& params : {model.input, model.output}) {
    if (!(params.scale > 0.0f && params.scale <= kMaxScale)) {
      load_message_ = "a scale of the model is not positive, or so large that its values are infinite";
      return {Status::kModelInvalid, 0};
    }
  }
  return {};
}

Outcome Inference::Verify(const GoldenVectors& vectors) {
  if (!load_.ok() || vectors.count == 0) return load_;
  protocol::SelfTestResult result;
  load_ = SelfTest(vectors, &result);
  if (!load_.ok()) {
    load_message_ = engine_->message();
  } else if (result.mismatches != 0) {
    load_message_ = "the engine does not reproduce the golden vectors of this model";
    load_ = {Status::kSelfTestFailed, result.mismatches};
  }
  // What the board did to itself does not count as an inference.
  times_ = {};
  has_result_ = false;
  return load_;
}

Outcome Inference::Run(const ArrayView<float>& observation) {
  if (!load_.ok()) return load_;
  if (observation.size() != info().n_obs) return {Status::kWrongCount, info().n_obs};
  for (uint16_t i = 0; i < observation.size(); ++i) {
    if (!std::isfinite(observation[i])) return {Status::kNonFinite, i};
  }
  conversion_->ToCodes(observation, info().input, input_);
  return Execute();
}

Outcome Inference::RunInt8(const ArrayView<int8_t>& input) {
  if (!load_.ok()) return load_;
  if (input.size() != info().n_obs) return {Status::kWrongCount, info().n_obs};
  std::memcpy(input_, input.bytes(), input.size());
  return Execute();
}

Outcome Inference::Execute() {
  const uint64_t start_us = clock_->NowUs();
  const Status status = engine_->Infer(input_, output_);
  if (status != Status::kOk) {
    has_result_ = false;
    return {status, engine_->detail()};
  }
  times_.last_us = static_cast<uint32_t>(clock_->NowUs() - start_us);
  if (times_.timed == 0 || times_.last_us < times_.min_us) times_.min_us = times_.last_us;
  if (times_.last_us > times_.max_us) times_.max_us = times_.last_us;
  ++times_.timed;
  ++times_.count;
  has_result_ = true;
  conversion_->ToValues({output_, info().n_act}, info().output, action_);
  return {};
}

Outcome Inference::Tensor(uint16_t op, TensorView* values) {
  if (!load_.ok()) return load_;
  if (op >= info().n_ops) return {Status::kNoSuchOperator, info().n_ops};
  if (!has_result_) return {Status::kNoInferenceYet, 0};
  const Status status = engine_->Tensor(op, values);
  return status == Status::kOk ? Outcome{} : Outcome{status, engine_->detail()};
}

Outcome Inference::SelfTest(const GoldenVectors& vectors, protocol::SelfTestResult* result) {
  if (!load_.ok()) return load_;
  if (vectors.count == 0) return {Status::kNoGoldenVectors, 0};
  *result = {};
  result->first_mismatch = UINT16_MAX;
  for (uint16_t i = 0; i < vectors.count; ++i) {
    const Outcome outcome = RunInt8({vectors.inputs + static_cast<size_t>(i) * info().n_obs, info().n_obs});
    if (!outcome.ok()) return outcome;
    ++result->count;
    if (std::memcmp(output_, vectors.outputs + static_cast<size_t>(i) * info().n_act, info().n_act) == 0) continue;
    if (result->mismatches++ == 0) result->first_mismatch = i;
  }
  return {};
}

}  // namespace hil
