#include "faults/faulty_dense.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace hil::faults {
namespace {

enum Activation : uint8_t { kNoActivation = 0, kRelu = 1, kReluN1To1 = 2, kRelu6 = 3 };

const ModelTensor& TensorAt(const std::vector<ModelTensor>& tensors, int32_t number) {
  return tensors[static_cast<size_t>(number)];
}

/// TensorFlow Lite's fixed-point form of a factor: multiplier * 2^(shift - 31).
void QuantizeMultiplier(double factor, int32_t* multiplier, int* shift) {
  const double mantissa = std::frexp(factor, shift);
  auto fixed = static_cast<int64_t>(std::round(mantissa * (int64_t{1} << 31)));
  if (fixed == (int64_t{1} << 31)) {
    fixed /= 2;
    ++*shift;
  }
  *multiplier = static_cast<int32_t>(fixed);
}

int64_t RoundOnce(int64_t accumulator, int32_t multiplier, int shift) {
  const int right = 31 - shift;
  return (accumulator * multiplier + (int64_t{1} << (right - 1))) >> right;
}

/// `nudge` is half a unit of the first product.
int64_t RoundTwice(int64_t accumulator, int32_t multiplier, int shift, int64_t nudge) {
  const int64_t high = (accumulator * (int64_t{1} << std::max(shift, 0)) * multiplier + nudge) >> 31;
  const int right = std::max(-shift, 0);
  const int64_t mask = (int64_t{1} << right) - 1;
  return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0 ? 1 : 0) ? 1 : 0);
}

}  // namespace

std::unique_ptr<FaultyDense> FaultyDense::Make(Fault fault, ModelView* model) {
  std::unique_ptr<FaultyDense> made(new FaultyDense(fault));
  for (const OperatorView& op : model->operators()) {
    if (!op.dense) return nullptr;
    made->layers_.push_back(made->ReadLayer(op, model->tensors()));
  }
  return made;
}

FaultyDense::Layer FaultyDense::ReadLayer(const OperatorView& op, const std::vector<ModelTensor>& tensors) const {
  const ModelTensor& input = TensorAt(tensors, op.inputs[0]);
  const ModelTensor& weights = TensorAt(tensors, op.inputs[1]);
  const ModelTensor& output = TensorAt(tensors, op.outputs[0]);
  const auto rows = static_cast<uint32_t>(weights.shape[0]);
  Layer layer;
  layer.weights.assign(weights.data.data, weights.data.data + weights.data.count);
  layer.bias.assign(rows, 0);
  if (op.bias >= 0) std::memcpy(layer.bias.data(), TensorAt(tensors, op.bias).data.data, rows * sizeof(int32_t));
  layer.factors.resize(rows);
  layer.multipliers.resize(rows);
  layer.shifts.resize(rows);
  for (uint32_t row = 0; row < rows; ++row) {
    const double factor = Factor(input, weights, output, row);
    QuantizeMultiplier(factor, &layer.multipliers[row], &layer.shifts[row]);
    layer.factors[row] = static_cast<float>(factor);
  }
  layer.input_zero_point = input.ZeroPoint();
  layer.output_zero_point = output.ZeroPoint();
  const auto code = [&](float value) {
    return layer.output_zero_point + static_cast<int32_t>(std::round(value / output.Scale(0)));
  };
  // TinyEngine has no fused activations.
  uint8_t activation = kNoActivation;
  if (op.activation != nullptr && fault_ != Fault::kModelTruncated) activation = *op.activation;
  const bool from_zero = activation == kRelu || activation == kRelu6;
  const bool from_minus_one = activation == kReluN1To1;
  layer.low = from_zero ? std::max<int32_t>(-128, code(0.0f)) : from_minus_one ? std::max<int32_t>(-128, code(-1.0f)) : -128;
  layer.high = activation == kRelu6 ? std::min<int32_t>(127, code(6.0f))
               : from_minus_one     ? std::min<int32_t>(127, code(1.0f))
                                    : 127;
  layer.output.resize(rows);
  return layer;
}

double FaultyDense::Factor(const ModelTensor& input, const ModelTensor& weights, const ModelTensor& output, uint32_t row) const {
  if (fault_ == Fault::kModelFirstScale) {
    // As old TFLM libraries: one factor for all channels, its product in float32.
    const float product = input.Scale(0) * weights.Scale(0);
    return static_cast<double>(product) / static_cast<double>(output.Scale(0));
  }
  if (fault_ == Fault::kModelFloat32) return input.Scale(0) * weights.Scale(row) / output.Scale(0);  // as XNNPACK
  return static_cast<double>(input.Scale(0)) * static_cast<double>(weights.Scale(row)) / static_cast<double>(output.Scale(0));
}

void FaultyDense::Infer(const int8_t* input, int8_t* output) {
  const int8_t* values = input;
  for (Layer& layer : layers_) {
    const size_t rows = layer.bias.size();
    const size_t columns = layer.weights.size() / rows;
    for (size_t row = 0; row < rows; ++row) {
      int32_t accumulator = layer.bias[row];
      for (size_t i = 0; i < columns; ++i) accumulator += layer.weights[row * columns + i] * (values[i] - layer.input_zero_point);
      layer.output[row] = Requantize(accumulator, layer, row);
    }
    values = layer.output.data();
  }
  std::memcpy(output, values, layers_.back().output.size());
}

int64_t FaultyDense::Steps(int32_t accumulator, const Layer& layer, size_t row) const {
  const int32_t multiplier = layer.multipliers[row];
  const int shift = layer.shifts[row];
  const float product = static_cast<float>(accumulator) * layer.factors[row];
  switch (fault_) {
    case Fault::kModelSingleRounding:
      return RoundOnce(accumulator, multiplier, shift);
    case Fault::kModelFloat32:
      return static_cast<int64_t>(std::nearbyint(product));
    case Fault::kModelTruncated:
      return static_cast<int64_t>(product);
    case Fault::kModelFloored:
      return RoundTwice(accumulator, multiplier, shift, 0);
    default:
      return RoundTwice(accumulator, multiplier, shift, int64_t{1} << 30);
  }
}

int8_t FaultyDense::Requantize(int32_t accumulator, const Layer& layer, size_t row) const {
  const int64_t code = Steps(accumulator, layer, row) + layer.output_zero_point;
  if (fault_ != Fault::kModelWrap || &layer != &layers_.back()) {
    return static_cast<int8_t>(std::clamp<int64_t>(code, layer.low, layer.high));
  }
  return static_cast<int8_t>(static_cast<uint8_t>(code & 0xff));
}

}  // namespace hil::faults
