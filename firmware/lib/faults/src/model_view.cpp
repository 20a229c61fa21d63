#include "faults/model_view.h"

#include <algorithm>
#include <cstring>

namespace hil::faults {
namespace {

constexpr uint8_t kInt8 = 9;            // TensorType
constexpr int32_t kFullyConnected = 9;  // BuiltinOperator

constexpr size_t kNone = SIZE_MAX;

/// Where an operator keeps its bias and its fused activation: an input, and a field of its options.
struct Place {
  size_t bias;     // kNone: it has none
  int32_t number;  // BuiltinOperator
  int activation;
};

constexpr Place kPlaces[] = {
    {kNone, 0, 0},            // ADD
    {2, 3, 3},                // CONV_2D
    {2, 4, 4},                // DEPTHWISE_CONV_2D
    {2, kFullyConnected, 0},  // FULLY_CONNECTED
    {kNone, 18, 0},           // MUL
};
constexpr uint32_t kCountBytes = 4;

template <typename T>
T Load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

uint8_t* Follow(uint8_t* at) { return at + Load<uint32_t>(at); }

}  // namespace

float ModelTensor::Scale(uint32_t channel) const {
  return Load<float>(scales.data + sizeof(float) * (scales.count > 1 ? channel : 0));
}

int32_t ModelTensor::ZeroPoint() const {
  return zero_points.count > 0 ? static_cast<int32_t>(Load<int64_t>(zero_points.data)) : 0;
}

ModelView::ModelView(std::vector<uint8_t>* model) {
  uint8_t* root = Follow(model->data());
  const std::vector<uint8_t*> codes = Tables(root, 1);
  const std::vector<uint8_t*> buffers = Tables(root, 4);
  uint8_t* subgraph = Tables(root, 2)[0];
  for (uint8_t* tensor : Tables(subgraph, 0)) ReadTensor(tensor, buffers);
  for (uint8_t* op : Tables(subgraph, 3)) ReadOperator(op, codes);
}

void ModelView::ReadTensor(uint8_t* table, const std::vector<uint8_t*>& buffers) {
  ModelTensor tensor;
  tensor.shape = Integers(table, 0);
  const uint8_t* type = Field(table, 1);
  tensor.int8 = type != nullptr && *type == kInt8;
  const uint8_t* buffer = Field(table, 2);
  tensor.data = VectorAt(buffers[buffer != nullptr ? Load<uint32_t>(buffer) : 0], 0);
  if (uint8_t* quantization = Table(table, 4)) {
    tensor.scales = VectorAt(quantization, 2);
    tensor.zero_points = VectorAt(quantization, 3);
  }
  tensors_.push_back(tensor);
}

void ModelView::ReadOperator(uint8_t* table, const std::vector<uint8_t*>& codes) {
  OperatorView op;
  const uint8_t* index = Field(table, 0);
  uint8_t* code = codes[index != nullptr ? Load<uint32_t>(index) : 0];
  const uint8_t* old_code = Field(code, 0);
  const uint8_t* new_code = Field(code, 3);
  const int32_t number =
      std::max<int32_t>(old_code != nullptr ? Load<int8_t>(old_code) : 0, new_code != nullptr ? Load<int32_t>(new_code) : 0);
  op.dense = number == kFullyConnected;
  op.inputs = Integers(table, 1);
  op.outputs = Integers(table, 2);
  for (const Place& place : kPlaces) {
    if (place.number != number) continue;
    if (uint8_t* options = Table(table, 4)) op.activation = Field(options, place.activation);
    if (op.inputs.size() > place.bias) op.bias = op.inputs[place.bias];
  }
  operators_.push_back(op);
}

uint8_t* ModelView::Field(uint8_t* table, int index) const {
  const uint8_t* vtable = table - Load<int32_t>(table);
  const int at = 4 + 2 * index;
  if (at >= Load<uint16_t>(vtable)) return nullptr;
  const uint16_t offset = Load<uint16_t>(vtable + at);
  return offset != 0 ? table + offset : nullptr;
}

uint8_t* ModelView::Table(uint8_t* table, int index) const {
  uint8_t* field = Field(table, index);
  return field != nullptr ? Follow(field) : nullptr;
}

Vector ModelView::VectorAt(uint8_t* table, int index) const {
  uint8_t* vector = Table(table, index);
  if (vector == nullptr) return {};
  return {vector + kCountBytes, Load<uint32_t>(vector)};
}

std::vector<int32_t> ModelView::Integers(uint8_t* table, int index) const {
  const Vector vector = VectorAt(table, index);
  std::vector<int32_t> values(vector.count);
  if (vector.data != nullptr && !values.empty()) std::memcpy(values.data(), vector.data, values.size() * sizeof(int32_t));
  return values;
}

std::vector<uint8_t*> ModelView::Tables(uint8_t* table, int index) const {
  const Vector vector = VectorAt(table, index);
  std::vector<uint8_t*> tables;
  for (uint32_t i = 0; i < vector.count; ++i) tables.push_back(Follow(vector.data + kCountBytes * i));
  return tables;
}

}  // namespace hil::faults
