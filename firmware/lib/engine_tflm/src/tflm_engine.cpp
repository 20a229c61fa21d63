#include "engine_tflm/tflm_engine.h"

#include <cstring>
#include <type_traits>

#include "engine_int8/tflite_model.h"

#ifndef HIL_TFLM_VERSION
#define HIL_TFLM_VERSION "unknown"
#endif

namespace hil {
namespace {

using Interpreter = tflite::MicroInterpreter;

constexpr size_t kModelAlignment = 16;
/// Libraries since late 2023 can keep every intermediate tensor; without that TFLM reuses their memory within one inference.
constexpr bool kKeepsTensors =
    std::is_constructible_v<Interpreter, const tflite::Model*, const tflite::MicroOpResolver&, uint8_t*, size_t,
                            tflite::MicroResourceVariables*, tflite::MicroProfilerInterface*, bool>;

// TFLM places its own objects in the arena before checking its size; the planner that keeps tensors takes 4 kB.
constexpr size_t kOwnObjects = 1024;

// Templates, so that the branch for the other library version is not compiled.
template <typename Target>
void Emplace(Target* target, const tflite::Model* model, const tflite::MicroOpResolver& resolver, const Arena& arena,
             bool keeps_tensors) {
  if constexpr (kKeepsTensors) {
    target->emplace(model, resolver, arena.data, arena.size, nullptr, nullptr, keeps_tensors);
  } else {
    target->emplace(model, resolver, arena.data, arena.size);
  }
}

template <typename Source>
const TfLiteEvalTensor* KeptTensor(Source* interpreter, int32_t index) {
  if constexpr (kKeepsTensors) {
    return interpreter->GetTensor(index);
  } else {
    return nullptr;
  }
}

TflmEngine* preparing = nullptr;  // the engine whose interpreter prepares its operators

size_t ElementCount(const TfLiteIntArray* dims) {
  size_t count = 1;
  for (int i = 0; i < dims->size; ++i) count *= static_cast<size_t>(dims->data[i]);
  return count;
}

template <typename Vector>
size_t SizeOf(const Vector* vector) {
  return vector == nullptr ? 0 : vector->size();
}

/// Whether every index refers to one of `count` tensors; -1 is an omitted optional input.
template <typename Vector>
bool IndicesValid(const Vector* indices, size_t count, int32_t smallest) {
  for (size_t i = 0; i < SizeOf(indices); ++i) {
    const int32_t index = indices->Get(static_cast<flatbuffers::uoffset_t>(i));
    if (index < smallest || (index >= 0 && static_cast<size_t>(index) >= count)) return false;
  }
  return true;
}

/// Whether all tensors and operators lie within the file. flatbuffers' own Verifier takes 24 kB of code.
bool IsWhole(const ByteSpan& bytes) {
  int8::TfliteModel file(bytes.data, static_cast<uint32_t>(bytes.size));
  int8::Tensor tensor;
  for (uint32_t i = 0; file.ok() && i < file.tensors(); ++i) file.ReadTensor(i, &tensor);
  for (uint32_t i = 0; file.ok() && i < file.operators(); ++i) file.OperatorAt(i);
  return file.ok() && file.HasPolicyShape();
}

/// Parameters of the input or output, which is of the type of the input; false: no model has such a tensor there.
bool ReadParams(const TfLiteTensor* tensor, TfLiteType type, QuantParams* params) {
  const int32_t zero_point = tensor->params.zero_point;
  const bool is_affine = tensor->quantization.type == kTfLiteAffineQuantization;
  if (tensor->type != type) return false;
  if (kWide && type == kTfLiteFloat32) {
    *params = {1.0f, 0, ElementType::kFloat32};
    return true;
  }
  if (kWide && type == kTfLiteInt16) {
    *params = {tensor->params.scale, 0, ElementType::kInt16x8};
    return is_affine && zero_point == 0;
  }
  *params = {tensor->params.scale, static_cast<int8_t>(zero_point)};
  return type == kTfLiteInt8 && is_affine;
}

}  // namespace

Status TflmEngine::Init(const ByteSpan& model, const Arena& arena) {
  info_ = {};
  info_.name = "tflm";
  info_.version = HIL_TFLM_VERSION;
  info_.arena_size = static_cast<uint32_t>(arena.size);
  message_ = "";
  detail_ = 0;
  input_ = output_ = nullptr;
  interpreter_.reset();
  if (resolver_ == nullptr) resolver_ = operators_();
  if (resolver_ == nullptr) return Refuse(Status::kUnsupportedOperator, 0, "TFLM did not register a built-in operator");
  Status status = CheckModel(model);
  if (status == Status::kOk) status = StartInterpreter(arena);
  if (status == Status::kOk) Describe();
  return status;
}

Status TflmEngine::Infer(const int8_t* input, int8_t* output) {
  if (keeps_state_) interpreter_->Reset();  // an inference does not depend on the one before
  std::memcpy(input_->data.raw, input, input_->bytes);
  const TfLiteStatus status = interpreter_->Invoke();
  if (status != kTfLiteOk) return Refuse(Status::kInferenceFailed, static_cast<uint32_t>(status), "TFLM's Invoke() failed");
  std::memcpy(output, output_->data.raw, output_->bytes);
  return Status::kOk;
}

Status TflmEngine::Tensor(uint16_t op, TensorView* values) {
  if (!keeps_tensors_) return Refuse(Status::kNotSupported, 0, "tensors share memory: the arena is too small to keep them all");
  const auto* outputs = model_->subgraphs()->Get(0)->operators()->Get(op)->outputs();
  const TfLiteEvalTensor* tensor = KeptTensor(&*interpreter_, outputs->Get(0));
  if (tensor == nullptr || tensor->type != input_->type)
    return Refuse(Status::kNotSupported, 0, "this TFLM does not keep intermediate tensors, or this one is of another type");
  *values = TensorView(tensor->data.int8, static_cast<uint32_t>(ElementCount(tensor->dims)) * WidthOf(info_.input.type));
  return Status::kOk;
}

Status TflmEngine::RunOperator(uint16_t op) {
  if (n_prepared_ != info_.n_ops) return Refuse(Status::kNotSupported, 0, "an operator of this TFLM has nothing to prepare");
  return prepared_[op].invoke(context_, prepared_[op].node) == kTfLiteOk ? Status::kOk : Status::kNotSupported;
}

void tflm::KeepPrepared(TfLiteContext* context, TfLiteNode* node, Invoke invoke) { preparing->Keep(context, {node, invoke}); }

void TflmEngine::Keep(TfLiteContext* context, const Prepared& prepared) {
  const size_t operators = model_->subgraphs()->Get(0)->operators()->size();
  context_ = context;
  if (prepared_ == nullptr) {
    prepared_ = static_cast<Prepared*>(context->AllocatePersistentBuffer(context, operators * sizeof(Prepared)));
  }
  if (prepared_ != nullptr && n_prepared_ < operators) prepared_[n_prepared_++] = prepared;
}

Status TflmEngine::CheckModel(const ByteSpan& bytes) {
  if (reinterpret_cast<uintptr_t>(bytes.data) % kModelAlignment != 0)
    return Refuse(Status::kModelInvalid, kModelAlignment, "the model is not aligned to 16 bytes");
  if (!IsWhole(bytes))
    return Refuse(Status::kModelInvalid, 0, "the model is not a complete .tflite file with one input and one output");
  model_ = tflite::GetModel(bytes.data);
  if (model_->version() != TFLITE_SCHEMA_VERSION)
    return Refuse(Status::kModelInvalid, model_->version(), "the model has another version of the .tflite format");
  Status status = CheckGraph();
  if (status == Status::kOk) status = CheckOperators();
  return status;
}

Status TflmEngine::CheckGraph() {
  if (SizeOf(model_->subgraphs()) != 1) return Refuse(Status::kModelInvalid, 0, "the model does not have exactly one graph");
  const auto* graph = model_->subgraphs()->Get(0);
  const size_t tensors = SizeOf(graph->tensors());
  const bool one_each = SizeOf(graph->inputs()) == 1 && SizeOf(graph->outputs()) == 1;
  if (!one_each || !IndicesValid(graph->inputs(), tensors, 0) || !IndicesValid(graph->outputs(), tensors, 0))
    return Refuse(Status::kModelInvalid, 0, "the model does not have exactly one input and one output");
  keeps_state_ = false;
  for (size_t i = 0; i < tensors; ++i) {
    const auto* tensor = graph->tensors()->Get(static_cast<flatbuffers::uoffset_t>(i));
    keeps_state_ |= tensor->is_variable();
    // One without a shape is a scalar.
    if (tensor->buffer() >= SizeOf(model_->buffers()))
      return Refuse(Status::kModelInvalid, static_cast<uint32_t>(i), "a tensor of the model has no buffer");
  }
  return Status::kOk;
}

Status TflmEngine::CheckOperators() {
  const auto* graph = model_->subgraphs()->Get(0);
  if (SizeOf(graph->operators()) == 0) return Refuse(Status::kModelInvalid, 0, "the model has no operators");
  const size_t tensors = SizeOf(graph->tensors());
  for (const auto* op : *graph->operators()) {
    const bool connected = SizeOf(op->inputs()) > 0 && SizeOf(op->outputs()) > 0;
    if (!connected || !IndicesValid(op->inputs(), tensors, -1) || !IndicesValid(op->outputs(), tensors, 0) ||
        op->opcode_index() >= SizeOf(model_->operator_codes()))
      return Refuse(Status::kModelInvalid, 0, "an operator of the model refers to a missing tensor or operator code");
    const tflite::BuiltinOperator code = tflite::GetBuiltinCode(model_->operator_codes()->Get(op->opcode_index()));
    if (resolver_->FindOp(code) == nullptr)
      return Refuse(Status::kUnsupportedOperator, static_cast<uint32_t>(code), tflite::EnumNameBuiltinOperator(code));
  }
  return Status::kOk;
}

Status TflmEngine::StartInterpreter(const Arena& arena) {
  preparing = this;
  keeps_tensors_ = kKeepsTensors && Allocates(arena, true);
  // Operators and graph are valid: what can still be missing is memory.
  if (!keeps_tensors_ && !Allocates(arena, false))
    return Refuse(Status::kArenaTooSmall, 0,
                  "TFLM's AllocateTensors() failed: the arena is too small, or a kernel refuses its tensors");
  input_ = interpreter_->input(0);
  output_ = interpreter_->output(0);
  return CheckTensors();
}

bool TflmEngine::Allocates(const Arena& arena, bool keeps_tensors) {
  if (arena.size < kOwnObjects + (keeps_tensors ? sizeof(tflite::LinearMemoryPlanner) : 0)) return false;
  prepared_ = nullptr;
  n_prepared_ = 0;
  Emplace(&interpreter_, model_, *resolver_, arena, keeps_tensors);
  return interpreter_->AllocateTensors() == kTfLiteOk;
}

Status TflmEngine::CheckTensors() {
  if (input_ == nullptr || output_ == nullptr)
    return Refuse(Status::kArenaTooSmall, 0, "the arena has no room for the input and output tensors");
  if (!ReadParams(input_, input_->type, &info_.input)) return Refuse(Status::kModelNotInt8, 0, "the input");
  if (!ReadParams(output_, input_->type, &info_.output)) return Refuse(Status::kModelNotInt8, 0, "the output");
  return Status::kOk;
}

void TflmEngine::Describe() {
  info_.n_obs = static_cast<uint32_t>(input_->bytes) / WidthOf(info_.input.type);
  info_.n_act = static_cast<uint32_t>(output_->bytes) / WidthOf(info_.output.type);
  info_.n_ops = static_cast<uint16_t>(model_->subgraphs()->Get(0)->operators()->size());
  info_.arena_used = static_cast<uint32_t>(interpreter_->arena_used_bytes());
}

Status TflmEngine::Refuse(Status status, uint32_t detail, const char* message) {
  message_ = message;
  detail_ = detail;
  return status;
}

}  // namespace hil
