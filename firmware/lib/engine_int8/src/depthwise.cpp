// DEPTHWISE_CONV_2D: every input channel has filters of its own.
#include "dense_rows.h"
#include "engine_int8/fixed_point.h"
#include "window.h"

namespace hil::int8 {

namespace {

constexpr WindowFields kFields = {{2, 4}, 5};
constexpr uint32_t kDepthMultiplier = 3;

struct Depthwise {
  Window window;
  FullyConnectedLayer layer;  // its weights are [filter height][filter width][rows]
  uint32_t multiplier;        // outputs of an input channel
};

/// Adds the products of one tap, which wrap.
HIL_ALWAYS_INLINE inline void AddTap(const Depthwise& depthwise, const int8_t* pixel, const int8_t* weights, int32_t* sums) {
  const int32_t zero_point = depthwise.layer.input_zero_point;
  for (uint32_t channel = 0; channel < depthwise.window.depth; ++channel) {
    const int32_t value = pixel[channel] - zero_point;
    for (uint32_t i = 0; i < depthwise.multiplier; ++i, ++sums) {
      *sums = static_cast<int32_t>(static_cast<uint32_t>(*sums) + static_cast<uint32_t>(value * *weights++));
    }
  }
}

void FinishPixel(const FullyConnectedLayer& layer, const int32_t* sums, int8_t* output) {
  if (layer.fits) {
    Finish(layer, sums, output);
  } else {
    for (uint32_t i = 0; i < layer.rows; ++i) output[i] = FinishExact(layer, i, static_cast<uint32_t>(sums[i]));
  }
  if (layer.low != INT8_MIN || layer.high != INT8_MAX) Clamp(layer.low, layer.high, output, layer.rows);
}

void Run(const Step& step, void* scratch) {
  const Depthwise& depthwise = *static_cast<const Depthwise*>(step.linked.parameters);
  const Window& window = depthwise.window;
  const FullyConnectedLayer& layer = depthwise.layer;
  const int8_t* const image = static_cast<const int8_t*>(step.input);
  int8_t* output = static_cast<int8_t*>(step.output);
  int32_t* const sums = static_cast<int32_t*>(scratch);
  for (int32_t row = 0; row < window.y.output; ++row) {
    for (int32_t column = 0; column < window.x.output; ++column, output += layer.rows) {
      std::memcpy(sums, layer.bias, 4 * layer.rows);
      const int8_t* weights = layer.weights;
      for (int32_t tap_y = 0; tap_y < window.y.filter; ++tap_y) {
        const int32_t y = window.y.At(row, tap_y);
        for (int32_t tap_x = 0; tap_x < window.x.filter; ++tap_x, weights += layer.rows) {
          const int32_t x = window.x.At(column, tap_x);
          if (window.y.Has(y) && window.x.Has(x)) AddTap(depthwise, window.Pixel(image, y, x), weights, sums);
        }
      }
      FinishPixel(layer, sums, output);
    }
  }
}

bool Prepare(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Depthwise counted = {};
  Depthwise& depthwise = builder->ParametersOf(step, &counted);
  Window window;
  Tensor weights;
  Tensor bias;
  Shape filter;
  const uint32_t channels = output.tensor.last_dimension;
  if (!builder->ReadWeights(op, channels, 3, &weights, &bias)) return false;
  if (!builder->ReadShape(weights, &filter) || filter.rank != 4 || filter.sizes[0] != 1 || filter.sizes[3] != channels) {
    return builder->Refuse("weights");
  }
  if (!ReadWindow(builder, op, kFields, input, output, filter.sizes[1], filter.sizes[2], &window)) return false;
  const uint32_t multiplier = builder->Number(builder->model().OptionsOf(op, kFields.options), kDepthMultiplier);
  if (channels % window.depth != 0 || channels / window.depth != multiplier) return builder->Refuse("weights");
  FullyConnectedLayer layer;
  if (!ReadChannels(builder, op, kFields, window, weights, bias, input, output, &layer)) return false;
  builder->NeedScratch(4 * channels);
  depthwise = {window, layer, multiplier};
  step->linked.run = Run;
  return true;
}

}  // namespace

const Kernel depthwise_conv_2d_kernel = {BuiltinOperator::kDepthwiseConv2D, Prepare};

}  // namespace hil::int8
