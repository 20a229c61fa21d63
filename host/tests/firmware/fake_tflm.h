// Stands in for TensorFlow Lite Micro's headers where its library is built and linked but not run.
#pragma once

#include <cstddef>
#include <cstdint>

#define TFLITE_SCHEMA_VERSION 3

enum TfLiteStatus { kTfLiteOk, kTfLiteError };
enum TfLiteType { kTfLiteInt8 };
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

enum BuiltinOperator { kNone, BuiltinOperator_FULLY_CONNECTED, BuiltinOperator_RELU, BuiltinOperator_TANH };
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

struct MicroResourceVariables;
struct MicroProfilerInterface;
struct LinearMemoryPlanner {};
struct MicroOpResolver {
  const TFLMRegistration* FindOp(BuiltinOperator) const { return nullptr; }
};
template <unsigned int kCount>
struct MicroMutableOpResolver : MicroOpResolver {
  TfLiteStatus AddFullyConnected(const TFLMRegistration&) { return kTfLiteOk; }
  TfLiteStatus AddRelu() { return kTfLiteOk; }
  TfLiteStatus AddTanh() { return kTfLiteOk; }
};
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t, MicroResourceVariables*, MicroProfilerInterface*, bool) {}
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(size_t) { return nullptr; }
  TfLiteTensor* output(size_t) { return nullptr; }
  TfLiteEvalTensor* GetTensor(int) { return nullptr; }
  size_t arena_used_bytes() const { return 0; }
};

}  // namespace tflite
