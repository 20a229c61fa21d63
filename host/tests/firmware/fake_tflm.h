// Stands in for TensorFlow Lite Micro's headers where its library is built and linked but not run.
#pragma once

#include <cstddef>
#include <cstdint>

#define TFLITE_SCHEMA_VERSION 3

enum TfLiteStatus { kTfLiteOk, kTfLiteError };
enum TfLiteType { kTfLiteFloat32 = 1, kTfLiteInt16 = 7, kTfLiteInt8 = 9 };
enum TfLiteQuantizationType { kTfLiteAffineQuantization };
struct TfLiteNode;
struct TfLiteContext {
  void* (*AllocatePersistentBuffer)(TfLiteContext*, size_t);
};
struct TfLiteIntArray {
  int size;
  int* data;
};
union TfLitePtrUnion {
  char* raw;
  int8_t* int8;
};
struct TfLiteTensor {
  TfLiteType type;
  struct {
    TfLiteQuantizationType type;
  } quantization;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  TfLitePtrUnion data;
  size_t bytes;
};
struct TfLiteEvalTensor {
  TfLiteType type;
  TfLitePtrUnion data;
  TfLiteIntArray* dims;
};

namespace flatbuffers {
using uoffset_t = uint32_t;
template <typename T>
struct Vector {
  uint32_t size() const { return 0; }
  T Get(uint32_t) const { return {}; }
  const T* begin() const { return nullptr; }
  const T* end() const { return nullptr; }
};
}  // namespace flatbuffers

namespace tflite {

enum BuiltinOperator {
  kNone = 255, BuiltinOperator_ABS = 101, BuiltinOperator_ADD = 0, BuiltinOperator_ADD_N = 106,
  BuiltinOperator_AVERAGE_POOL_2D = 1, BuiltinOperator_BATCH_MATMUL = 126, BuiltinOperator_BATCH_TO_SPACE_ND = 37,
  BuiltinOperator_CONCATENATION = 2, BuiltinOperator_CONV_2D = 3, BuiltinOperator_DEPTHWISE_CONV_2D = 4,
  BuiltinOperator_DEPTH_TO_SPACE = 5, BuiltinOperator_DEQUANTIZE = 6, BuiltinOperator_DIV = 42, BuiltinOperator_ELU = 111,
  BuiltinOperator_EXPAND_DIMS = 70, BuiltinOperator_FILL = 94, BuiltinOperator_FULLY_CONNECTED = 9, BuiltinOperator_GATHER =
  36, BuiltinOperator_HARD_SWISH = 117, BuiltinOperator_L2_NORMALIZATION = 11, BuiltinOperator_LEAKY_RELU = 98,
  BuiltinOperator_LOGISTIC = 14, BuiltinOperator_LOG_SOFTMAX = 50, BuiltinOperator_MAXIMUM = 55, BuiltinOperator_MAX_POOL_2D =
  17, BuiltinOperator_MEAN = 40, BuiltinOperator_MINIMUM = 57, BuiltinOperator_MIRROR_PAD = 100, BuiltinOperator_MUL = 18,
  BuiltinOperator_PACK = 83, BuiltinOperator_PAD = 34, BuiltinOperator_PADV2 = 60, BuiltinOperator_PRELU = 54,
  BuiltinOperator_QUANTIZE = 114, BuiltinOperator_REDUCE_MAX = 82, BuiltinOperator_RELU = 19, BuiltinOperator_RELU6 = 21,
  BuiltinOperator_RESHAPE = 22, BuiltinOperator_RESIZE_BILINEAR = 23, BuiltinOperator_RESIZE_NEAREST_NEIGHBOR = 97,
  BuiltinOperator_RSQRT = 76, BuiltinOperator_SHAPE = 77, BuiltinOperator_SLICE = 65, BuiltinOperator_SOFTMAX = 25, BuiltinOperator_SPACE_TO_BATCH_ND =
  38, BuiltinOperator_SPACE_TO_DEPTH = 26, BuiltinOperator_SPLIT = 49, BuiltinOperator_SPLIT_V = 102,
  BuiltinOperator_SQUARED_DIFFERENCE = 99, BuiltinOperator_SQUEEZE = 43, BuiltinOperator_STRIDED_SLICE = 45,
  BuiltinOperator_SUB = 41, BuiltinOperator_SUM = 74, BuiltinOperator_SVDF = 27, BuiltinOperator_TANH = 28,
  BuiltinOperator_TRANSPOSE = 39, BuiltinOperator_TRANSPOSE_CONV = 67, BuiltinOperator_UNIDIRECTIONAL_SEQUENCE_LSTM = 44,
  BuiltinOperator_UNPACK = 88, BuiltinOperator_ZEROS_LIKE = 93
};
struct Operator {
  const flatbuffers::Vector<int32_t>* inputs() const { return nullptr; }
  const flatbuffers::Vector<int32_t>* outputs() const { return nullptr; }
  uint32_t opcode_index() const { return 0; }
};
struct OperatorCode {};
struct Buffer {};
struct Tensor {
  const flatbuffers::Vector<int32_t>* shape() const { return nullptr; }
  uint32_t buffer() const { return 0; }
  bool is_variable() const { return false; }
};
struct SubGraph {
  const flatbuffers::Vector<const Tensor*>* tensors() const { return nullptr; }
  const flatbuffers::Vector<int32_t>* inputs() const { return nullptr; }
  const flatbuffers::Vector<int32_t>* outputs() const { return nullptr; }
  const flatbuffers::Vector<const Operator*>* operators() const { return nullptr; }
};
struct Model {
  uint32_t version() const { return 0; }
  const flatbuffers::Vector<const SubGraph*>* subgraphs() const { return nullptr; }
  const flatbuffers::Vector<const Buffer*>* buffers() const { return nullptr; }
  const flatbuffers::Vector<const OperatorCode*>* operator_codes() const { return nullptr; }
};
inline const Model* GetModel(const void* data) { return static_cast<const Model*>(data); }
inline BuiltinOperator GetBuiltinCode(const OperatorCode*) { return kNone; }
inline const char* EnumNameBuiltinOperator(BuiltinOperator) { return ""; }

struct TFLMRegistration {
  TfLiteStatus (*prepare)(TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
};
TFLMRegistration Register_FULLY_CONNECTED_INT8();
inline TFLMRegistration Register_ADD_INT8() { return {}; }
inline TFLMRegistration Register_AVERAGE_POOL_2D_INT8() { return {}; }
inline TFLMRegistration Register_CONV_2D_INT8() { return {}; }
inline TFLMRegistration Register_DEPTHWISE_CONV_2D_INT8() { return {}; }
inline TFLMRegistration Register_MAX_POOL_2D_INT8() { return {}; }
inline TFLMRegistration Register_MUL_INT8() { return {}; }
inline TFLMRegistration Register_SOFTMAX_INT8() { return {}; }

struct MicroResourceVariables;
struct MicroProfilerInterface;
struct LinearMemoryPlanner {};
struct MicroOpResolver {
  const TFLMRegistration* FindOp(BuiltinOperator) const { return nullptr; }
};
template <unsigned int kCount>
struct MicroMutableOpResolver : MicroOpResolver {
  TfLiteStatus AddFullyConnected(const TFLMRegistration&) { return kTfLiteOk; }
  TfLiteStatus AddAdd(const TFLMRegistration&) { return kTfLiteOk; }
  TfLiteStatus AddAveragePool2D(const TFLMRegistration&) { return kTfLiteOk; }
  TfLiteStatus AddConv2D(const TFLMRegistration&) { return kTfLiteOk; }
  TfLiteStatus AddDepthwiseConv2D(const TFLMRegistration&) { return kTfLiteOk; }
  TfLiteStatus AddSoftmax(const TFLMRegistration&) { return kTfLiteOk; }
  TfLiteStatus AddReshape() { return kTfLiteOk; }
  TfLiteStatus AddRelu() { return kTfLiteOk; }
  TfLiteStatus AddTanh() { return kTfLiteOk; }
};
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t, MicroResourceVariables*, MicroProfilerInterface*,
                   bool) {}
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteStatus Reset() { return kTfLiteOk; }
  TfLiteTensor* input(size_t) { return nullptr; }
  TfLiteTensor* output(size_t) { return nullptr; }
  TfLiteEvalTensor* GetTensor(int) { return nullptr; }
  size_t arena_used_bytes() const { return 0; }
};

}  // namespace tflite
