// View of a .tflite that an engine has already validated.
#pragma once

#include <cstdint>
#include <vector>

namespace hil::faults {

/// Elements of a flatbuffer's vector, in the file.
struct Vector {
  uint8_t* data = nullptr;
  uint32_t count = 0;
};

/// One tensor of the only subgraph. `data` is empty where an operator computes it.
struct ModelTensor {
  bool int8 = false;
  Vector scales;       // float32
  Vector zero_points;  // int64
  Vector data;         // bytes
  std::vector<int32_t> shape;

  float Scale(uint32_t channel) const;  ///< the only one if there is one
  int32_t ZeroPoint() const;            ///< 0 if there is none
};

/// One operator; indices of tensors.
struct OperatorView {
  bool dense = false;             // FULLY_CONNECTED
  uint8_t* activation = nullptr;  // the fused one, in the file; nullptr: none
  int32_t bias = -1;              // tensor; -1: none
  std::vector<int32_t> inputs;
  std::vector<int32_t> outputs;
};

/// Reads and changes a copy of the model.
class ModelView {
 public:
  explicit ModelView(std::vector<uint8_t>* model);

  std::vector<ModelTensor>& tensors() { return tensors_; }
  const std::vector<OperatorView>& operators() const { return operators_; }

 private:
  uint8_t* Field(uint8_t* table, int index) const;
  uint8_t* Table(uint8_t* table, int index) const;
  Vector VectorAt(uint8_t* table, int index) const;
  std::vector<int32_t> Integers(uint8_t* table, int index) const;
  std::vector<uint8_t*> Tables(uint8_t* table, int index) const;
  void ReadTensor(uint8_t* table, const std::vector<uint8_t*>& buffers);
  void ReadOperator(uint8_t* table, const std::vector<uint8_t*>& codes);

  std::vector<ModelTensor> tensors_;
  std::vector<OperatorView> operators_;
};

}  // namespace hil::faults
