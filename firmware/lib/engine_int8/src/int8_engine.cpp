#include "engine_int8/int8_engine.h"

#include <cstring>

#include "engine_int8/lookup_table.h"

namespace hil {

Status Int8Engine::RequiredArena(const ByteSpan& model, size_t* bytes, bool keeps_tensors) const {
  int8::TfliteModel file(model.data, static_cast<uint32_t>(model.size));
  int8::Cursor counter(nullptr, 0);
  int8::Program program;
  int8::Signature signature;
  int8::Refusal refusal;
  const Status status = kernels_->build(*kernels_, int8::Keeps::kAll, &file, &counter, &program, &signature, &refusal);
  *bytes = counter.needed();
  if (keeps_tensors) return status;
  int8::Cursor sharing(nullptr, 0);
  kernels_->build(*kernels_, int8::Keeps::kNone, &file, &sharing, &program, &signature, &refusal);
  *bytes = sharing.needed() < *bytes ? sharing.needed() : *bytes;
  return status;
}

Status Int8Engine::Init(const ByteSpan& model, const Arena& arena) {
  info_.n_obs = 0;
  info_.n_act = 0;
  info_.n_ops = 0;
  info_.arena_used = 0;
  info_.name = "int8";
  info_.version = "1";
  info_.arena_size = static_cast<uint32_t>(arena.size);
  detail_ = 0;
  message_ = "";
  int8::TfliteModel file(model.data, static_cast<uint32_t>(model.size));
  int8::Cursor cursor(arena.data, static_cast<uint32_t>(arena.size));
  int8::Signature signature;
  int8::Refusal refusal;
  const Status status = kernels_->build(*kernels_, int8::Keeps::kAllIfTheyFit, &file, &cursor, &program_, &signature, &refusal);
  if (status != Status::kOk) {
    message_ = refusal.reason;
    detail_ = refusal.code << 8 | refusal.op;
    return status;
  }
  if (cursor.needed() > arena.size) {
    detail_ = cursor.needed();
    return Status::kArenaTooSmall;
  }
  info_.n_obs = signature.n_obs;
  info_.n_act = signature.n_act;
  info_.n_ops = static_cast<uint16_t>(program_.n_steps);
  info_.input = signature.input;
  info_.output = signature.output;
  info_.arena_used = cursor.needed();
  return Status::kOk;
}

Status Int8Engine::Infer(const int8_t* input, int8_t* output) {
  std::memcpy(program_.input, input, info_.n_obs);
  for (uint16_t op = 0; op < info_.n_ops; ++op) RunOperator(op);
  std::memcpy(output, program_.output, info_.n_act);
  return Status::kOk;
}

Status Int8Engine::RunOperator(uint16_t op) {
  const int8::Step& step = program_.steps[op];
  const int8_t* const input = static_cast<const int8_t*>(step.input);
  int8_t* const output = static_cast<int8_t*>(step.output);
  switch (step.kind) {
    case int8::StepKind::kFullyConnected:
      int8::FullyConnected(step.layer, input, program_.scratch, output);
      break;
    case int8::StepKind::kLookup:
      int8::Lookup(step.table, input, output, step.elements);
      break;
    case int8::StepKind::kAlias:
      break;
    case int8::StepKind::kDequantize:
      for (uint32_t i = 0; i < step.elements; ++i) static_cast<float*>(step.output)[i] = Dequantize(input[i], step.quant);
      break;
    case int8::StepKind::kQuantize:
      for (uint32_t i = 0; i < step.elements; ++i) output[i] = Quantize(static_cast<const float*>(step.input)[i], step.quant);
      break;
    case int8::StepKind::kLinked:
      step.linked.run(step, program_.scratch);
      break;
  }
  return Status::kOk;
}

Status Int8Engine::Tensor(uint16_t op, TensorView* values) {
  const int8::Step& step = program_.steps[op];
  if (step.output_type != int8::TensorType::kInt8) return Status::kNotSupported;
  *values = TensorView(static_cast<const int8_t*>(step.output), step.elements);
  return Status::kOk;
}

}  // namespace hil
