#include "policy/policy.h"

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace hil {
namespace {

// A code and its zero point differ by at most 255; in int16 by 32,768.
constexpr float kMaxScale = std::numeric_limits<float>::max() / (kWide ? 65536 : 256);

/// Normalizes and quantizes a part of an observation, of at most kFrameObs values, into the input.
[[gnu::always_inline]] inline Outcome Convert(Conversion* conversion, const Normalization& by, const QuantParams& params,
                                              uint32_t offset, const ArrayView<float>& observation, int8_t* input) {
  for (uint32_t i = 0; i < observation.size(); ++i) {
    if (!std::isfinite(observation[i])) return {Status::kNonFinite, offset + i};
  }
  input += offset * WidthOf(params.type);
  if (by.none()) {
    conversion->ToCodes(observation, params, input);
    return {};
  }
  float normalized[kFrameObs];
  for (uint32_t i = 0; i < observation.size(); ++i) {
    normalized[i] = Normalize(observation[i], by.mean[offset + i], by.inverse_std[offset + i], by.clip);
  }
  conversion->ToCodes({normalized, observation.size()}, params, input);
  return {};
}

/// The first of `count` float32, in bytes at any alignment, that is not finite; `count` if there is none.
uint32_t FirstNonFinite(const int8_t* bytes, uint32_t count) {
  const auto values = ArrayView<float>::FromBytes(reinterpret_cast<const uint8_t*>(bytes), count);
  uint32_t i = 0;
  while (i < count && std::isfinite(values[i])) ++i;
  return i;
}

}  // namespace

Outcome Policy::Load(const ModelImage& image, const Arena& arena, bool verify) {
  image_ = image;
  load_message_ = "";
  has_result_ = false;
  times_ = {};
  if (image.model.size == 0) return load_ = {Status::kNoModel, 0};
  const Status status = engine_->Init(image.model, arena);
  load_ = status == Status::kOk ? Check() : Refuse(status, engine_->detail(), engine_->message());
  if (load_.ok()) conversion_->Prepare(info().input, info().output);
  if (!load_.ok() || !verify || image.golden.count == 0) return load_;
  SelfTestCount result;
  const Outcome replayed = SelfTest(&result);
  return Verify(replayed, result);
}

Outcome Policy::Check() {
  const EngineInfo& model = info();
  const uint32_t width = WidthOf(model.input.type);
  if (model.n_obs == 0 || model.n_obs > kMaxObs / width || model.n_act == 0 || model.n_act > kMaxAct / width) {
    return Refuse(Status::kModelInvalid, 0, "the model has no input, no output, or more of them than the firmware is built for");
  }
  for (const QuantParams& params : {model.input, model.output}) {
    if (!(params.scale > 0.0f && params.scale <= kMaxScale)) {
      return Refuse(Status::kModelInvalid, 0, "a scale of the model is not positive, or so large that its values are infinite");
    }
  }
  if (kWide && image_.type != model.input.type) {
    return Refuse(Status::kOtherModel, model.n_obs << 16 | model.n_act, "the model has another element type than announced");
  }
  if ((image_.n_obs != 0 && image_.n_obs != model.n_obs) || (image_.n_act != 0 && image_.n_act != model.n_act)) {
    return Refuse(Status::kOtherModel, model.n_obs << 16 | model.n_act, "the model has other sizes than announced");
  }
  const Normalization& normalization = image_.normalization;
  if (!normalization.valid() || (!normalization.none() && normalization.mean.size() != model.n_obs)) {
    return Refuse(Status::kModelInvalid, 0, "the normalization is not finite and positive, or for another number of inputs");
  }
  return {};
}

Outcome Policy::Verify(const Outcome& replayed, const SelfTestCount& result) {
  // The replay does not count as inferences.
  times_ = {};
  has_result_ = false;
  if (!replayed.ok()) {
    load_ = Refuse(replayed.status, replayed.detail, engine_->message());
  } else if (result.mismatches != 0) {
    load_ = Refuse(Status::kSelfTestFailed, result.mismatches, "the engine does not reproduce the golden vectors of this model");
  }
  return load_;
}

Outcome Policy::Refuse(Status status, uint32_t detail, const char* message) {
  load_message_ = message;
  return {status, detail};
}

Outcome Policy::Run(const ArrayView<float>& observation) {
  const Outcome prepared = Prepare(observation);
  return prepared.ok() ? Execute() : prepared;
}

Outcome Policy::Prepare(const ArrayView<float>& observation) {
  if (!load_.ok()) return load_;
  if (observation.size() != info().n_obs) return {Status::kWrongCount, info().n_obs};
  if constexpr (!kInPieces) {
    return Convert(conversion_, image_.normalization, info().input, 0, observation, input_);
  } else {
    Outcome outcome;
    for (uint32_t offset = 0; outcome.ok() && offset < observation.size(); offset += kFrameObs) {
      const uint32_t left = observation.size() - offset;
      const uint8_t* const bytes = observation.bytes() + offset * sizeof(float);
      outcome = Store(offset, ArrayView<float>::FromBytes(bytes, left < kFrameObs ? left : kFrameObs));
    }
    return outcome;
  }
}

Outcome Policy::Store(uint32_t offset, const ArrayView<int8_t>& values) {
  if (!load_.ok()) return load_;
  const uint32_t size = input_bytes();
  if (offset > size || values.size() > size - offset) return {Status::kWrongOffset, size};
  if (values.size() != 0) std::memcpy(input_ + offset, values.bytes(), values.size());
  return {};
}

Outcome Policy::Store(uint32_t offset, const ArrayView<float>& observations) {
  if constexpr (kInPieces) {  // else the conversion would have a second caller, and not be inlined
    if (!load_.ok()) return load_;
    const uint32_t count = observations.size();
    if (offset > info().n_obs || count > info().n_obs - offset) return {Status::kWrongOffset, info().n_obs};
    if (count > kFrameObs) return {Status::kWrongCount, kFrameObs};
    return Convert(conversion_, image_.normalization, info().input, offset, observations, input_);
  }
  return {Status::kNotSupported, 0};
}

Outcome Policy::RunStored() { return load_.ok() ? Execute() : load_; }

Outcome Policy::RunInt8(const ArrayView<int8_t>& input) {
  if (!load_.ok()) return load_;
  if (input.size() != input_bytes()) return {Status::kWrongCount, info().n_obs};
  std::memcpy(input_, input.bytes(), input.size());
  return Execute();
}

Outcome Policy::Execute() {
  const uint64_t start_us = clock_ != nullptr ? clock_->NowUs() : 0;
  const Outcome outcome = Infer();
  if (!outcome.ok()) return outcome;
  times_.last_us = clock_ != nullptr ? static_cast<uint32_t>(clock_->NowUs() - start_us) : 0;
  if (times_.timed == 0 || times_.last_us < times_.min_us) times_.min_us = times_.last_us;
  if (times_.last_us > times_.max_us) times_.max_us = times_.last_us;
  ++times_.timed;
  ++times_.count;
  Finish();
  return {};
}

Outcome Policy::Infer() {
  const EngineInfo& model = info();
  if (kWide && model.input.type == ElementType::kFloat32) {
    const uint32_t wrong = FirstNonFinite(input_, model.n_obs);
    if (wrong != model.n_obs) return {Status::kNonFinite, wrong};
  }
  const Status status = engine_->Infer(input_, output_);
  has_result_ = status == Status::kOk;
  if (!has_result_) return {status, engine_->detail()};
  if (kWide && model.output.type == ElementType::kFloat32) {  // an actuator must not get it
    const uint32_t wrong = FirstNonFinite(output_, model.n_act);
    has_result_ = wrong == model.n_act;
    if (!has_result_) return {Status::kInferenceFailed, wrong};
  }
  return {};
}

Outcome Policy::Tensor(uint16_t op, TensorView* values) {
  if (!load_.ok()) return load_;
  if (op >= info().n_ops) return {Status::kNoSuchOperator, info().n_ops};
  if (!has_result_) return {Status::kNoInferenceYet, 0};
  const Status status = engine_->Tensor(op, values);
  return status == Status::kOk ? Outcome{} : Outcome{status, engine_->detail()};
}

Outcome Policy::SelfTest(SelfTestCount* result) {
  if (!load_.ok()) return load_;
  if (image_.golden.count == 0) return {Status::kNoGoldenVectors, 0};
  *result = {};
  Outcome outcome;
  for (uint16_t i = 0; outcome.ok() && i < image_.golden.count; ++i) outcome = Replay(i, result);
  return outcome;
}

Outcome Policy::Replay(uint16_t index, SelfTestCount* result) {
  const size_t row = index;
  const Outcome outcome = RunInt8({image_.golden.inputs + row * input_bytes(), input_bytes()});
  const size_t size = output_bytes();
  const bool differs = outcome.ok() && std::memcmp(output_, image_.golden.outputs + row * size, size) != 0;
  if (differs && result->mismatches++ == 0) result->first_mismatch = index;
  return outcome;
}

}  // namespace hil
