// Dense layers with faulty arithmetic, which no engine offers.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "faults/fault.h"
#include "faults/model_view.h"

namespace hil::faults {

/// Runs a chain of FULLY_CONNECTED operators with one fault in its scales or its requantization.
class FaultyDense {
 public:
  /// nullptr for a model with any other operator.
  static std::unique_ptr<FaultyDense> Make(Fault fault, ModelView* model);

  void Infer(const int8_t* input, int8_t* output);
  const std::vector<int8_t>& Tensor(uint16_t op) const { return layers_[op].output; }

 private:
  struct Layer {
    std::vector<int8_t> weights;  // row by row
    std::vector<int32_t> bias;
    std::vector<int32_t> multipliers;
    std::vector<int> shifts;  // to the left
    std::vector<float> factors;
    int32_t input_zero_point;
    int32_t output_zero_point;
    int32_t low;
    int32_t high;
    std::vector<int8_t> output;
  };

  explicit FaultyDense(Fault fault) : fault_(fault) {}

  Layer ReadLayer(const OperatorView& op, const std::vector<ModelTensor>& tensors) const;
  double Factor(const ModelTensor& input, const ModelTensor& weights, const ModelTensor& output, uint32_t row) const;
  int64_t Steps(int32_t accumulator, const Layer& layer, size_t row) const;
  int8_t Requantize(int32_t accumulator, const Layer& layer, size_t row) const;

  Fault fault_;
  std::vector<Layer> layers_;
};

}  // namespace hil::faults
