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
constexpr uint32_t kWeightsFormat = 1;
}

}  // namespace

TfliteModel::TfliteModel(const uint8_t* data, uint32_t size) : file_(data, size) {
  const uint8_t* identifier = file_.At(4, 4);
  if (identifier == nullptr || size > INT32_MAX || std::memcmp(identifier, "TFL3", 4) != 0) return;
  const uint32_t model = file_.Root();
  codes_ = file_.VectorField(model, model_table::kOperatorCodes, 4);
  buffers_ = file_.VectorField(model, model_table::kBuffers, 4);
  const uint32_t subgraphs = file_.VectorField(model, model_table::kSubgraphs, 4);
  if (file_.Count(subgraphs) != 1) return;
  const uint32_t subgraph = file_.TableIn(subgraphs, 0);
  tensors_ = file_.VectorField(subgraph, subgraph_table::kTensors, 4);
  operators_ = file_.VectorField(subgraph, subgraph_table::kOperators, 4);
  tensor_count_ = file_.Count(tensors_);
  operator_count_ = file_.Count(operators_);
  const uint32_t inputs = file_.VectorField(subgraph, subgraph_table::kInputs, 4);
  const uint32_t outputs = file_.VectorField(subgraph, subgraph_table::kOutputs, 4);
  input_ = TensorOf(inputs, 0);
  output_ = TensorOf(outputs, 0);
  has_policy_shape_ = file_.Count(inputs) == 1 && file_.Count(outputs) == 1 && operator_count_ > 0 && input_ < tensor_count_ &&
                      output_ < tensor_count_;
}

Operator TfliteModel::OperatorAt(uint32_t index) {
  const uint32_t table = file_.TableIn(operators_, index);
  const uint32_t code = file_.TableIn(codes_, file_.Uint32Field(table, operator_table::kCode, 0));
  // Old files store the code in an 8-bit field, new ones in a 32-bit field; the larger one is valid.
  const uint32_t old_code = file_.Uint8Field(code, code_table::kOldCode, 0);
  const uint32_t new_code = file_.Uint32Field(code, code_table::kCode, 0);
  Operator op;
  op.code = static_cast<BuiltinOperator>(old_code > new_code ? old_code : new_code);
  op.inputs = file_.VectorField(table, operator_table::kInputs, 4);
  op.outputs = file_.VectorField(table, operator_table::kOutputs, 4);
  op.options_type = file_.Uint8Field(table, operator_table::kOptionsType, 0);
  op.options = file_.TableField(table, operator_table::kOptions);
  return op;
}

void TfliteModel::ReadTensor(uint32_t index, Tensor* tensor) {
  *tensor = {};
  tensor->symmetric = true;
  const uint32_t table = file_.TableIn(tensors_, index);
  tensor->type = static_cast<TensorType>(file_.Uint8Field(table, tensor_table::kType, 0));
  const uint32_t shape = file_.VectorField(table, tensor_table::kShape, 4);
  tensor->shape = shape;
  tensor->elements = 1;
  tensor->last_dimension = 1;
  for (uint32_t i = 0; i < file_.Count(shape) && tensor->elements != 0; ++i) {
    tensor->last_dimension = static_cast<uint32_t>(file_.Int32In(shape, i));  // a negative one does not fit
    const bool fits = tensor->last_dimension <= kMaxElements / tensor->elements;
    tensor->elements = fits ? tensor->elements * tensor->last_dimension : 0;
  }
  if (file_.Field(table, tensor_table::kSparsity) != 0 || file_.Uint8Field(table, tensor_table::kIsVariable, 0) != 0) {
    tensor->elements = 0;
  }
  ReadQuantization(file_.TableField(table, tensor_table::kQuantization), tensor);
  const uint32_t buffer = file_.Uint32Field(table, tensor_table::kBuffer, 0);
  if (buffer != 0) {  // 0 is the empty one by convention
    const uint32_t data = file_.VectorField(file_.TableIn(buffers_, buffer), 0, 1);
    tensor->data_bytes = file_.Count(data);
    tensor->data = tensor->data_bytes != 0 ? file_.BytesOf(data) : nullptr;
  }
}

void TfliteModel::ReadQuantization(uint32_t table, Tensor* tensor) {
  if (file_.Uint8Field(table, quantization_table::kDetailsType, 0) != 0) {
    return;  // custom quantization: its scales are not usable
  }
  tensor->scales = file_.VectorField(table, quantization_table::kScale, 4);
  tensor->scale_count = file_.Count(tensor->scales);
  tensor->quantized_dimension = file_.Uint32Field(table, quantization_table::kDimension, 0);
  const uint32_t zero_points = file_.VectorField(table, quantization_table::kZeroPoint, 8);
  const uint8_t* const words = file_.At(zero_points + 4, 8 * file_.Count(zero_points));
  for (uint32_t i = file_.Count(zero_points); i-- > 0;) {
    // int64, low word first; like TFLM, this takes the low word.
    std::memcpy(&tensor->zero_point, words + 8 * i, sizeof tensor->zero_point);
    tensor->symmetric = tensor->symmetric && tensor->zero_point == 0;
  }
}

uint32_t TfliteModel::TensorOf(uint32_t operands, uint32_t index) {
  if (index >= file_.Count(operands)) return tensor_count_;
  const uint32_t tensor = static_cast<uint32_t>(file_.Int32In(operands, index));
  return tensor < tensor_count_ ? tensor : tensor_count_;
}

float TfliteModel::ScaleAt(const Tensor& tensor, uint32_t index) {
  const int32_t bits = file_.Int32In(tensor.scales, index);
  float scale = 0;
  std::memcpy(&scale, &bits, sizeof scale);
  return scale;
}

bool TfliteModel::HasPlainWeights(const Operator& op) {
  return file_.Uint8Field(OptionsOf(op, kFullyConnectedOptions), fully_connected_table::kWeightsFormat, 0) == 0;
}

}  // namespace hil::int8
