// AVERAGE_POOL_2D and MAX_POOL_2D.
#include "window.h"

namespace hil::int8 {

namespace {

constexpr WindowFields kFields = {{5, 5}, 0};
constexpr uint32_t kFilterWidth = 3, kFilterHeight = 4;

struct Pooling {
  Window window;
  int8_t low;
  int8_t high;
};

/// Coordinates of the taps that are inside the image.
struct Inside {
  int32_t begin;
  int32_t end;
};

Inside InsideOf(const Axis& axis, int32_t position) {
  const int32_t first = axis.At(position, 0);
  const int32_t behind = first + axis.filter;
  return {first > 0 ? first : 0, behind < axis.input ? behind : axis.input};
}

struct Maximum {
  int32_t value = INT8_MIN;
  void Add(int8_t element) { value = element > value ? element : value; }
  int32_t Result(int32_t) const { return value; }
};

/// Mean of raw values, rounded half away from zero.
struct Average {
  int32_t sum = 0;
  void Add(int8_t element) { sum += element; }
  int32_t Result(int32_t count) const { return (sum > 0 ? sum + count / 2 : sum - count / 2) / count; }
};

template <typename Reduction>
void Run(const Step& step, void*) {
  const Pooling& pooling = *static_cast<const Pooling*>(step.linked.parameters);
  const Window& window = pooling.window;
  const int8_t* const image = static_cast<const int8_t*>(step.input);
  int8_t* output = static_cast<int8_t*>(step.output);
  for (int32_t row = 0; row < window.y.output; ++row) {
    const Inside ys = InsideOf(window.y, row);
    for (int32_t column = 0; column < window.x.output; ++column) {
      const Inside xs = InsideOf(window.x, column);
      const int32_t count = (ys.end - ys.begin) * (xs.end - xs.begin);
      for (uint32_t channel = 0; channel < window.depth; ++channel) {
        Reduction reduction;
        for (int32_t y = ys.begin; y < ys.end; ++y) {
          const int8_t* element = window.Pixel(image, y, xs.begin) + channel;
          for (int32_t x = xs.begin; x < xs.end; ++x, element += window.depth) reduction.Add(*element);
        }
        const int32_t result = reduction.Result(count);
        const int32_t raised = result < pooling.low ? pooling.low : result;
        *output++ = static_cast<int8_t>(raised > pooling.high ? pooling.high : raised);
      }
    }
  }
}

template <typename Reduction>
bool Prepare(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Pooling counted = {};
  Pooling& pooling = builder->ParametersOf(step, &counted);
  Window window;
  int8_t low;
  int8_t high;
  const uint32_t options = builder->model().OptionsOf(op, kFields.options);
  const uint32_t height = builder->Number(options, kFilterHeight);
  const uint32_t width = builder->Number(options, kFilterWidth);
  if (!ReadWindow(builder, op, kFields, input, output, height, width, &window)) return false;
  if (window.channels != window.depth || !SameQuant(input.quant, output.quant)) return builder->Refuse("operands");
  const auto rows = static_cast<uint32_t>(window.y.filter < window.y.input ? window.y.filter : window.y.input);
  const auto columns = static_cast<uint32_t>(window.x.filter < window.x.input ? window.x.filter : window.x.input);
  if (!IsAffordable(builder, window, rows * columns) || !builder->ReadActivation(op, kFields.options, output, &low, &high)) {
    return false;
  }
  pooling = {window, low, high};
  step->linked.run = Run<Reduction>;
  return true;
}

}  // namespace

const Kernel average_pool_2d_kernel = {BuiltinOperator::kAveragePool2D, Prepare<Average>};
const Kernel max_pool_2d_kernel = {BuiltinOperator::kMaxPool2D, Prepare<Maximum>};

}  // namespace hil::int8
