#include "faults/faulty_engine.h"

#include <algorithm>
#include <cstring>

#include "faults/model_view.h"

namespace hil::faults {
namespace {

void ClearBiases(ModelView* view) {
  for (const OperatorView& op : view->operators()) {
    if (op.bias < 0) continue;
    const Vector& data = view->tensors()[static_cast<size_t>(op.bias)].data;
    if (data.count > 0) std::memset(data.data, 0, data.count);
  }
}

void ClearActivations(const std::vector<OperatorView>& operators) {
  for (const OperatorView& op : operators) {
    if (op.activation != nullptr) *op.activation = 0;
  }
}

/// Other weights of the same size: each tensor reversed.
void ReverseWeights(ModelView* view) {
  for (ModelTensor& tensor : view->tensors()) {
    if (tensor.int8) std::reverse(tensor.data.data, tensor.data.data + tensor.data.count);
  }
}

}  // namespace

Status FaultyEngine::Init(const ByteSpan& model, const Arena& arena) {
  const Status status = engine_->Init(model, arena);  // refuses models that the code below could not read
  if (status != Status::kOk) return status;
  if (info().input.type != ElementType::kInt8) {
    message_ = "the faults are those of int8 models";
    return Status::kModelNotInt8;
  }
  previous_.assign(info().n_act, 0);
  model_.assign(model.data, model.data + model.size);
  ModelView view(&model_);
  switch (fault_) {
    case Fault::kModelOther:
      ReverseWeights(&view);
      return engine_->Init({model_.data(), model_.size()}, arena);
    case Fault::kModelNoBias:
      ClearBiases(&view);
      return engine_->Init({model_.data(), model_.size()}, arena);
    case Fault::kModelNoActivation:
      ClearActivations(view.operators());
      return engine_->Init({model_.data(), model_.size()}, arena);
    case Fault::kModelFirstScale:
    case Fault::kModelWrap:
    case Fault::kModelSingleRounding:
    case Fault::kModelFloored:
    case Fault::kModelFloat32:
    case Fault::kModelTruncated:
      dense_ = FaultyDense::Make(fault_, &view);
      if (dense_) return Status::kOk;
      message_ = "this fault requires a model of dense layers only";
      return Status::kUnsupportedOperator;
    default:
      return Status::kOk;
  }
}

Status FaultyEngine::Infer(const int8_t* input, int8_t* output) {
  if (dense_) {
    dense_->Infer(input, output);
    return Status::kOk;
  }
  const Status status = engine_->Infer(input, output);
  if (status != Status::kOk) return status;
  const size_t size = info().n_act;
  switch (fault_) {
    case Fault::kModelConstant:
      std::memset(output, 0, size);
      return Status::kOk;
    case Fault::kModelWrongTensor:
      return WrongTensor(output);
    case Fault::kModelPermuted:
      std::reverse(output, output + size);
      return Status::kOk;
    case Fault::kModelStale:
      std::swap_ranges(output, output + size, previous_.begin());
      return Status::kOk;
    default:
      return Status::kOk;
  }
}

Status FaultyEngine::Tensor(uint16_t op, TensorView* values) {
  if (!dense_) return engine_->Tensor(op, values);
  const std::vector<int8_t>& tensor = dense_->Tensor(op);
  *values = {tensor.data(), static_cast<uint16_t>(tensor.size())};
  return Status::kOk;
}

Status FaultyEngine::WrongTensor(int8_t* output) {
  TensorView first;
  const Status status = engine_->Tensor(0, &first);
  if (status != Status::kOk) return status;
  std::memcpy(output, first.bytes(), std::min<size_t>(first.size(), info().n_act));
  return Status::kOk;
}

}  // namespace hil::faults
