// The parts of a `.tflite` file that the engine needs, by their field numbers in TensorFlow Lite's schema.
#pragma once

#include <cstdint>

#include "engine_int8/flatbuffer.h"

namespace hil::int8 {

enum class TensorType : uint8_t { kFloat32 = 0, kInt32 = 2, kInt8 = 9, kAbsent = 255 };

enum class BuiltinOperator : uint32_t {
  kDequantize = 6,
  kFullyConnected = 9,
  kLogistic = 14,
  kRelu = 19,
  kReluN1To1 = 20,
  kRelu6 = 21,
  kReshape = 22,
  kTanh = 28,
  kCustom = 32,
  kQuantize = 114,
};

enum class FusedActivation : uint8_t { kNone = 0, kRelu = 1, kReluN1To1 = 2, kRelu6 = 3 };

/// One tensor. `data` is nullptr where an operator computes it.
struct Tensor {
  TensorType type = TensorType::kAbsent;
  uint32_t elements = 0;        // product of the shape; 0 where it is no positive number of at most 2^20
  uint32_t last_dimension = 0;  // 1 for a scalar
  FlatVector scales;            // float32
  int32_t zero_point = 0;       // the first one
  bool symmetric = true;        // every zero point is 0
  uint32_t quantized_dimension = 0;
  const uint8_t* data = nullptr;
  uint32_t data_bytes = 0;
};

struct Operator {
  BuiltinOperator code = BuiltinOperator::kCustom;
  FlatVector inputs;
  FlatVector outputs;
  uint32_t options = 0;  // table of FullyConnectedOptions, 0 where there is none
};

/// A checked view of the model's only subgraph.
class TfliteModel {
 public:
  /// `data` must outlive the view.
  TfliteModel(const uint8_t* data, uint32_t size);

  /// False: some read so far left the file. What the other functions returned is then worthless.
  bool ok() const { return file_.ok(); }

  /// One subgraph with one input, one output and at least one operator.
  bool HasPolicyShape() const { return has_policy_shape_; }

  uint32_t operators() const { return operators_.count; }
  uint32_t tensors() const { return tensors_.count; }
  uint32_t input() const { return input_; }
  uint32_t output() const { return output_; }

  Operator OperatorAt(uint32_t index);
  Tensor TensorAt(uint32_t index);

  /// Tensor number of an operator's input or output; `tensors()` where the operator has fewer, or the file says -1 (absent).
  uint32_t TensorOf(const FlatVector& operands, uint32_t index);

  float ScaleAt(const FlatVector& scales, uint32_t index);
  FusedActivation ActivationOf(const Operator& op);
  /// False for FULLY_CONNECTED weights in another order than row by row.
  bool HasPlainWeights(const Operator& op);

 private:
  void ReadQuantization(uint32_t table, Tensor* tensor);
  void ReadData(uint32_t buffer, Tensor* tensor);

  Flatbuffer file_;
  FlatVector codes_;
  FlatVector buffers_;
  FlatVector tensors_;
  FlatVector operators_;
  uint32_t input_ = 0;
  uint32_t output_ = 0;
  bool has_policy_shape_ = false;
};

}  // namespace hil::int8
