// The parts of a `.tflite` file that the engine needs, by their field numbers in TensorFlow Lite's schema.
#pragma once

#include <cstdint>

#include "engine_int8/flatbuffer.h"

namespace hil::int8 {

enum class TensorType : uint8_t { kFloat32 = 0, kInt32 = 2, kInt8 = 9, kAbsent = 255 };

enum class BuiltinOperator : uint32_t {
  kAdd = 0,
  kAveragePool2D = 1,
  kConv2D = 3,
  kDepthwiseConv2D = 4,
  kDequantize = 6,
  kFullyConnected = 9,
  kLogistic = 14,
  kMaxPool2D = 17,
  kMul = 18,
  kRelu = 19,
  kReluN1To1 = 20,
  kRelu6 = 21,
  kReshape = 22,
  kSoftmax = 25,
  kTanh = 28,
  kPad = 34,
  kMean = 40,
  kStridedSlice = 45,
  kShape = 77,
  kPack = 83,
  kQuantize = 114,
};

enum class FusedActivation : uint8_t { kNone = 0, kRelu = 1, kReluN1To1 = 2, kRelu6 = 3 };

/// One tensor. `data` is nullptr if an operator computes it.
struct Tensor {
  TensorType type;
  bool symmetric;           // every zero point is 0
  uint32_t elements;        // product of the shape; 0 if it is not between 1 and 2^20
  uint32_t last_dimension;  // 1 for a scalar
  uint32_t shape;           // vector of int32
  uint32_t scales;          // vector of `scale_count` float32
  uint32_t scale_count;
  int32_t zero_point;  // the first one
  uint32_t quantized_dimension;
  const uint8_t* data;
  uint32_t data_bytes;
};

/// One operator. Operands are vectors of tensor numbers.
struct Operator {
  BuiltinOperator code;
  uint32_t inputs;
  uint32_t outputs;
  uint32_t options;  // table; 0: none
  uint8_t options_type;
};

/// Options of an operator: its type in the schema's union BuiltinOptions, and the field of its fused activation.
struct OptionsType {
  uint8_t number;
  uint8_t activation;
};
constexpr OptionsType kFullyConnectedOptions = {8, 0};

/// A checked view of the model's only subgraph.
class TfliteModel {
 public:
  /// `data` must outlive the view.
  TfliteModel(const uint8_t* data, uint32_t size);

  /// False after a read beyond the file: all values read so far are then invalid.
  bool ok() const { return file_.ok(); }

  /// One subgraph with one input, one output and at least one operator.
  bool HasPolicyShape() const { return has_policy_shape_; }

  uint32_t operators() const { return operator_count_; }
  uint32_t tensors() const { return tensor_count_; }
  uint32_t input() const { return input_; }
  uint32_t output() const { return output_; }

  Operator OperatorAt(uint32_t index);
  void ReadTensor(uint32_t index, Tensor* tensor);

  uint32_t Count(uint32_t operands) { return file_.Count(operands); }

  /// Tensor number of an operator's input or output; `tensors()` if the operator has fewer, or the index is -1 (absent).
  uint32_t TensorOf(uint32_t operands, uint32_t index);

  float ScaleAt(const Tensor& tensor, uint32_t index);
  /// Table of an operator's options; 0 if they are of another type or absent.
  static uint32_t OptionsOf(const Operator& op, const OptionsType& type) {
    return op.options_type == type.number ? op.options : 0;
  }
  FusedActivation ActivationOf(const Operator& op, const OptionsType& type) {
    return static_cast<FusedActivation>(file_.Uint8Field(OptionsOf(op, type), type.activation, 0));
  }
  /// False if FULLY_CONNECTED weights are not row-major.
  bool HasPlainWeights(const Operator& op);

  Flatbuffer& file() { return file_; }

 private:
  void ReadQuantization(uint32_t table, Tensor* tensor);

  Flatbuffer file_;
  uint32_t codes_ = 0;  // vectors of tables
  uint32_t buffers_ = 0;
  uint32_t tensors_ = 0;
  uint32_t operators_ = 0;
  uint32_t tensor_count_ = 0;
  uint32_t operator_count_ = 0;
  uint32_t input_ = 0;
  uint32_t output_ = 0;
  bool has_policy_shape_ = false;
};

}  // namespace hil::int8
