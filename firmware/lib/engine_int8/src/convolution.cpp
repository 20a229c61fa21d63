// CONV_2D: the inputs of one output pixel, side by side, are the input of a dense layer.
#include <cstring>

#include "dense_rows.h"
#include "window.h"

namespace hil::int8 {

namespace {

constexpr WindowFields kFields = {{1, 3}, 4};

struct Convolution {
  Window window;
  FullyConnectedLayer layer;  // of one group
  uint32_t groups;
  uint32_t patch_at;  // in the scratch memory, behind that of the dense layer
};

/// The same layer for the rows behind those of `layer`.
FullyConnectedLayer Next(FullyConnectedLayer layer) {
  layer.weights += layer.rows * layer.columns;
  layer.bias += 4 * layer.rows;
#if HIL_FOLDS_BIAS
  layer.folded_bias += layer.rows;
#endif
  layer.fractions += layer.rows;
  layer.shifts += layer.rows;
  return layer;
}

/// Gathers `depth` channels of every tap of the output at (row, column); `image` points at the first of them.
void FillPatch(const Window& window, int32_t row, int32_t column, uint32_t depth, int8_t zero_point, const int8_t* image,
               int8_t* patch) {
  const Axis& axis_y = window.y;
  const Axis& axis_x = window.x;
  const bool is_row = depth == window.depth && axis_x.dilation == 1;  // neighboring taps are neighbors in memory, too
  const int32_t left = axis_x.At(column, 0);
  const bool inside = left >= 0 && left + axis_x.filter <= axis_x.input;
  const uint32_t row_bytes = static_cast<uint32_t>(axis_x.filter) * depth;
  for (int32_t tap_y = 0; tap_y < axis_y.filter; ++tap_y) {
    const int32_t y = axis_y.At(row, tap_y);
    if (!axis_y.Has(y)) {
      std::memset(patch, zero_point, row_bytes);
      patch += row_bytes;
    } else if (is_row && inside) {
      std::memcpy(patch, window.Pixel(image, y, left), row_bytes);
      patch += row_bytes;
    } else {
      for (int32_t tap_x = 0; tap_x < axis_x.filter; ++tap_x, patch += depth) {
        const int32_t x = axis_x.At(column, tap_x);
        if (axis_x.Has(x)) {
          std::memcpy(patch, window.Pixel(image, y, x), depth);
        } else {
          std::memset(patch, zero_point, depth);
        }
      }
    }
  }
}

void Run(const Step& step, void* scratch) {
  const Convolution& convolution = *static_cast<const Convolution*>(step.linked.parameters);
  const Window& window = convolution.window;
  const int8_t* const image = static_cast<const int8_t*>(step.input);
  int8_t* output = static_cast<int8_t*>(step.output);
  int8_t* const patch = static_cast<int8_t*>(scratch) + convolution.patch_at;
  const uint32_t depth = window.depth / convolution.groups;
  const int8_t zero_point = static_cast<int8_t>(convolution.layer.input_zero_point);
  const bool is_point = window.y.filter == 1 && window.x.filter == 1;
  for (int32_t row = 0; row < window.y.output; ++row) {
    for (int32_t column = 0; column < window.x.output; ++column) {
      FullyConnectedLayer layer = convolution.layer;
      for (uint32_t group = 0; group < convolution.groups; ++group, layer = Next(layer), output += layer.rows) {
        const int8_t* input = patch;
        if (is_point) {
          input = window.Pixel(image, row * window.y.stride, column * window.x.stride) + group * depth;
        } else {
          FillPatch(window, row, column, depth, zero_point, image + group * depth, patch);
        }
        FullyConnected(layer, input, scratch, output);
      }
    }
  }
}

bool Prepare(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Convolution counted = {};
  Convolution& convolution = builder->ParametersOf(step, &counted);
  Window window;
  Tensor weights;
  Tensor bias;
  Shape filter;
  const uint32_t channels = output.tensor.last_dimension;
  if (!builder->ReadWeights(op, channels, 0, &weights, &bias)) return false;
  if (!builder->ReadShape(weights, &filter) || filter.rank != 4 || filter.sizes[0] != channels) return builder->Refuse("weights");
  if (!ReadWindow(builder, op, kFields, input, output, filter.sizes[1], filter.sizes[2], &window)) return false;
  const uint32_t groups = window.depth / filter.sizes[3];
  if (groups * filter.sizes[3] != window.depth || channels % groups != 0) return builder->Refuse("weights");
  FullyConnectedLayer layer;
  if (!ReadChannels(builder, op, kFields, window, weights, bias, input, output, &layer)) return false;
  layer.rows = channels / groups;
  layer.fits = layer.fits && IsLargeEnough(layer);
  const uint32_t dense_bytes = ScratchBytes(layer.columns, layer.rows);
  builder->NeedScratch(dense_bytes + ((layer.columns + 3) & ~3u));
  convolution = {window, layer, groups, dense_bytes};
  step->linked.run = Run;
  return true;
}

}  // namespace

const Kernel conv_2d_kernel = {BuiltinOperator::kConv2D, Prepare};

}  // namespace hil::int8
