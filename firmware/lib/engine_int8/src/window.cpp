#include "window.h"

namespace hil::int8 {

namespace {

constexpr uint32_t kMaxFilter = 1u << 20;
constexpr uint32_t kMaxStep = 1u << 10;      // stride and dilation: every coordinate fits 31 bits
constexpr uint64_t kMaxProducts = 1u << 28;  // of one operator: what takes longer is no policy

// The first three options of all operators with a window: padding, stride of the width, stride of the height.
constexpr uint32_t kPadding = 0, kStrideWidth = 1, kStrideHeight = 2;
constexpr uint8_t kSame = 0, kValid = 1;

bool Fill(uint8_t padding, uint32_t filter, uint32_t stride, uint32_t dilation, uint32_t input, uint32_t output, Axis* axis) {
  if (filter == 0 || filter > kMaxFilter || stride == 0 || stride > kMaxStep || dilation == 0 || dilation > kMaxStep)
    return false;
  const uint32_t reach = (filter - 1) * dilation + 1;
  const uint32_t positions = padding == kSame ? input : input + 1 - reach;
  if ((padding != kSame && reach > input) || (positions + stride - 1) / stride != output) return false;
  const uint32_t covered = (output - 1) * stride + reach;
  const uint32_t missing = covered > input ? covered - input : 0;
  *axis = {static_cast<int32_t>(input),  static_cast<int32_t>(output),   static_cast<int32_t>(filter),
           static_cast<int32_t>(stride), static_cast<int32_t>(dilation), static_cast<int32_t>(missing / 2)};
  return true;
}

}  // namespace

Range Axis::TapsInside(int32_t position) const {
  const int32_t first = At(position, 0);
  Range inside = {first < 0 ? -first : 0, input - first};
  if (dilation != 1) inside = {(inside.begin + dilation - 1) / dilation, (inside.end + dilation - 1) / dilation};
  if (inside.end > filter) inside.end = filter;
  return inside;
}

bool ReadWindow(Builder* builder, const Operator& op, const WindowFields& fields, const Operand& input, const Operand& output,
                uint32_t filter_height, uint32_t filter_width, Window* window) {
  const uint32_t options = builder->model().OptionsOf(op, fields.options);
  const uint8_t padding = builder->model().file().Uint8Field(options, kPadding, 0);
  const bool dilates = fields.dilation_width != 0;
  const uint32_t dilation_width = dilates ? builder->Number(options, fields.dilation_width, 1) : 1;
  const uint32_t dilation_height = dilates ? builder->Number(options, fields.dilation_width + 1u, 1) : 1;
  Shape in;
  Shape out;
  if (options == 0 || padding > kValid || !builder->ReadShape(input.tensor, &in) || !builder->ReadShape(output.tensor, &out) ||
      in.rank != 4 || out.rank != 4 || in.sizes[0] != 1 || out.sizes[0] != 1 ||
      !Fill(padding, filter_height, builder->Number(options, kStrideHeight), dilation_height, in.sizes[1], out.sizes[1],
            &window->y) ||
      !Fill(padding, filter_width, builder->Number(options, kStrideWidth), dilation_width, in.sizes[2], out.sizes[2],
            &window->x)) {
    return builder->Refuse("window");
  }
  window->depth = in.sizes[3];
  window->channels = out.sizes[3];
  return true;
}

bool IsAffordable(Builder* builder, const Window& window, uint32_t products_per_output) {
  const uint64_t outputs = static_cast<uint64_t>(window.y.output) * static_cast<uint64_t>(window.x.output) * window.channels;
  if (outputs * products_per_output > kMaxProducts) return builder->Refuse("too many products");
  return true;
}

bool ReadChannels(Builder* builder, const Operator& op, const WindowFields& fields, const Window& window, const Tensor& weights,
                  const Tensor& bias, const Operand& input, const Operand& output, FullyConnectedLayer* layer) {
  *layer = {};
  layer->weights = reinterpret_cast<const int8_t*>(weights.data);
  layer->bias = bias.data;
  layer->rows = window.channels;
  layer->columns = weights.elements / layer->rows;
  layer->input_zero_point = input.quant.zero_point;
  layer->output_zero_point = output.quant.zero_point;
  layer->fits = true;
  return IsAffordable(builder, window, layer->columns) &&
         builder->ReadActivation(op, fields.options, output, &layer->low, &layer->high) &&
         builder->PrepareRows(weights, input, output, layer);
}

}  // namespace hil::int8
