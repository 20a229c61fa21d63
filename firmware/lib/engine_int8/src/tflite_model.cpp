#include "engine_int8/tflite_model.h"

#include <cstring>

namespace hil::int8 {

namespace {

constexpr uint32_t kMaxElements = 1u << 20;  // keeps every sum of sizes within 32 bits

// Field numbers of the tables in TensorFlow Lite's schema.fbs.
namespace model_table {
constexpr uint32_t kOperatorCodes = 1, kSubgraphs = 2, kBuffers = 4;
}
namespace code_table {
constexpr uint32_t kOldCode = 0, kCode = 3;
}
namespace subgraph_table {
constexpr uint32_t kTensors = 0, kInputs = 1, kOutputs = 2, kOperators = 3;
}
namespace tensor_table {
constexpr uint32_t kShape = 0, kType = 1, kBuffer = 2, kQuantization = 4, kIsVariable = 5, kSparsity = 6;
}
namespace quantization_table {
constexpr uint32_t kScale = 2, kZeroPoint = 3, kDetailsType = 4, kDimension = 6;
}
namespace operator_table {
constexpr uint32_t kCode = 0, kInputs = 1, kOutputs = 2, kOptionsType = 3, kOptions = 4;
}
namespace fully_connected_table {
constexpr uint32_t kActivation = 0, kWeightsFormat = 1;
}
constexpr uint8_t kFullyConnectedOptions = 8;

}  // namespace

TfliteModel::TfliteModel(const uint8_t* data, uint32_t size) : file_(data, size) {
  const uint8_t* identifier = file_.At(4, 4);
  if (identifier == nullptr || size > INT32_MAX || std::memcmp(identifier, "TFL3", 4) != 0) {
    return;
  }
  const uint32_t model = file_.Root();
  codes_ = file_.VectorAt(file_.Field(model, model_table::kOperatorCodes), 4);
  buffers_ = file_.VectorAt(file_.Field(model, model_table::kBuffers), 4);
  const FlatVector subgraphs = file_.VectorAt(file_.Field(model, model_table::kSubgraphs), 4);
  if (subgraphs.count != 1) {
    return;
  }
  const uint32_t subgraph = file_.TableIn(subgraphs, 0);
  tensors_ = file_.VectorAt(file_.Field(subgraph, subgraph_table::kTensors), 4);
  operators_ = file_.VectorAt(file_.Field(subgraph, subgraph_table::kOperators), 4);
  const FlatVector inputs = file_.VectorAt(file_.Field(subgraph, subgraph_table::kInputs), 4);
  const FlatVector outputs = file_.VectorAt(file_.Field(subgraph, subgraph_table::kOutputs), 4);
  input_ = TensorOf(inputs, 0);
  output_ = TensorOf(outputs, 0);
  has_policy_shape_ = file_.ok() && inputs.count == 1 && outputs.count == 1 && operators_.count > 0 && input_ < tensors_.count &&
                      output_ < tensors_.count;
}

Operator TfliteModel::OperatorAt(uint32_t index) {
  Operator op;
  const uint32_t table = file_.TableIn(operators_, index);
  const uint32_t code = file_.TableIn(codes_, file_.Uint32Field(table, operator_table::kCode, 0));
  // Old files keep the code in an 8-bit field, new ones in a 32-bit field; the larger one is right.
  const uint32_t old_code = file_.Uint8Field(code, code_table::kOldCode, 0);
  const uint32_t new_code = file_.Uint32Field(code, code_table::kCode, 0);
  op.code = static_cast<BuiltinOperator>(old_code > new_code ? old_code : new_code);
  op.inputs = file_.VectorAt(file_.Field(table, operator_table::kInputs), 4);
  op.outputs = file_.VectorAt(file_.Field(table, operator_table::kOutputs), 4);
  if (file_.Uint8Field(table, operator_table::kOptionsType, 0) == kFullyConnectedOptions) {
    op.options = file_.TableAt(file_.Field(table, operator_table::kOptions));
  }
  return op;
}

Tensor TfliteModel::TensorAt(uint32_t index) {
  Tensor tensor;
  const uint32_t table = file_.TableIn(tensors_, index);
  tensor.type = static_cast<TensorType>(file_.Uint8Field(table, tensor_table::kType, 0));
  const FlatVector shape = file_.VectorAt(file_.Field(table, tensor_table::kShape), 4);
  tensor.elements = 1;
  tensor.last_dimension = 1;
  for (uint32_t i = 0; i < shape.count && tensor.elements != 0; ++i) {
    const int32_t dimension = file_.Int32In(shape, i);
    tensor.last_dimension = static_cast<uint32_t>(dimension);
    const bool fits = dimension > 0 && tensor.last_dimension <= kMaxElements / tensor.elements;
    tensor.elements = fits ? tensor.elements * tensor.last_dimension : 0;
  }
  if (file_.Field(table, tensor_table::kSparsity) != 0 || file_.Uint8Field(table, tensor_table::kIsVariable, 0) != 0) {
    tensor.elements = 0;
  }
  ReadQuantization(file_.TableAt(file_.Field(table, tensor_table::kQuantization)), &tensor);
  ReadData(file_.Uint32Field(table, tensor_table::kBuffer, 0), &tensor);
  return tensor;
}

void TfliteModel::ReadQuantization(uint32_t table, Tensor* tensor) {
  if (file_.Uint8Field(table, quantization_table::kDetailsType, 0) != 0) {
    return;  // a custom quantisation: no scales that mean anything here
  }
  tensor->scales = file_.VectorAt(file_.Field(table, quantization_table::kScale), 4);
  const FlatVector zero_points = file_.VectorAt(file_.Field(table, quantization_table::kZeroPoint), 8);
  for (uint32_t i = 0; i < zero_points.count; ++i) {
    const FlatVector words = {zero_points.position + 8 * i, 2};  // int64, low word first
    const int32_t low = file_.Int32In(words, 0);
    if (file_.Int32In(words, 1) != (low < 0 ? -1 : 0)) {
      tensor->scales = {};  // beyond int32
    }
    tensor->symmetric = tensor->symmetric && low == 0;
    tensor->zero_point = i == 0 ? low : tensor->zero_point;
  }
  tensor->quantized_dimension = file_.Uint32Field(table, quantization_table::kDimension, 0);
}

void TfliteModel::ReadData(uint32_t buffer, Tensor* tensor) {
  if (buffer == 0) {  // by convention the empty one
    return;
  }
  const FlatVector data = file_.VectorAt(file_.Field(file_.TableIn(buffers_, buffer), 0), 1);
  if (data.count != 0) {
    tensor->data = file_.At(data.position, data.count);
    tensor->data_bytes = data.count;
  }
}

uint32_t TfliteModel::TensorOf(const FlatVector& operands, uint32_t index) {
  if (index >= operands.count) {
    return tensors_.count;
  }
  const uint32_t tensor = static_cast<uint32_t>(file_.Int32In(operands, index));
  return tensor < tensors_.count ? tensor : tensors_.count;
}

float TfliteModel::ScaleAt(const FlatVector& scales, uint32_t index) {
  const int32_t bits = file_.Int32In(scales, index);
  float scale = 0;
  std::memcpy(&scale, &bits, sizeof scale);
  return scale;
}

FusedActivation TfliteModel::ActivationOf(const Operator& op) {
  return static_cast<FusedActivation>(file_.Uint8Field(op.options, fully_connected_table::kActivation, 0));
}

bool TfliteModel::HasPlainWeights(const Operator& op) {
  return file_.Uint8Field(op.options, fully_connected_table::kWeightsFormat, 0) == 0;
}

}  // namespace hil::int8
