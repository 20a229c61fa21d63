// AVERAGE_POOL_2D and MAX_POOL_2D.
#include "dense_rows.h"
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

struct Maximum {
  static constexpr int32_t kFirst = INT8_MIN;
  static int32_t Add(int32_t value, int32_t element) { return element > value ? element : value; }
  static int32_t Result(int32_t value, int32_t) { return value; }
};

/// Mean of raw values, rounded half away from zero. A window that ReadWindow() takes has a tap inside for every output.
struct Average {
  static constexpr int32_t kFirst = 0;
  static int32_t Add(int32_t sum, int32_t element) { return sum + element; }
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero)
  static int32_t Result(int32_t sum, int32_t count) { return (sum > 0 ? sum + count / 2 : sum - count / 2) / count; }
};

/// Taps of one output that are inside the image.
struct Taps {
  uint32_t height;
  uint32_t width;
  const int8_t* first;
};

/// Calls `add(element)` for every tap; `element` points at `channel`.
template <typename Add>
HIL_ALWAYS_INLINE inline void ForEachTap(const Window& window, const Taps& taps, uint32_t channel, const Add& add) {
  const uint32_t depth = window.depth;
  const uint32_t line_step = static_cast<uint32_t>(window.x.input) * depth;
  const int8_t* line = taps.first + channel;
  for (uint32_t y = taps.height; y != 0; --y, line += line_step) {
    const int8_t* element = line;
    for (uint32_t x = taps.width; x != 0; --x, element += depth) add(element);
  }
}

/// One channel of one output.
template <typename Reduction>
void PoolOne(const Window& window, const Taps& taps, uint32_t channel, int8_t* output) {
  int32_t value = Reduction::kFirst;
  ForEachTap(window, taps, channel, [&](const int8_t* element) { value = Reduction::Add(value, *element); });
  output[channel] = static_cast<int8_t>(Reduction::Result(value, static_cast<int32_t>(taps.height * taps.width)));
}

/// Four neighboring channels of one output.
template <typename Reduction>
void PoolFour(const Window& window, const Taps& taps, uint32_t channel, int8_t* output) {
  int32_t a = Reduction::kFirst;
  int32_t b = a;
  int32_t c = a;
  int32_t d = a;
  ForEachTap(window, taps, channel, [&](const int8_t* elements) {
    a = Reduction::Add(a, elements[0]);
    b = Reduction::Add(b, elements[1]);
    c = Reduction::Add(c, elements[2]);
    d = Reduction::Add(d, elements[3]);
  });
  const auto count = static_cast<int32_t>(taps.height * taps.width);
  output[channel] = static_cast<int8_t>(Reduction::Result(a, count));
  output[channel + 1] = static_cast<int8_t>(Reduction::Result(b, count));
  output[channel + 2] = static_cast<int8_t>(Reduction::Result(c, count));
  output[channel + 3] = static_cast<int8_t>(Reduction::Result(d, count));
}

template <typename Reduction>
void Run(const Step& step, void*) {
  const Pooling& pooling = *static_cast<const Pooling*>(step.linked.parameters);
  const Window& window = pooling.window;
  const uint32_t depth = window.depth;
  const int8_t* const image = static_cast<const int8_t*>(step.input);
  int8_t* output = static_cast<int8_t*>(step.output);
  for (int32_t row = 0; row < window.y.output; ++row) {
    const Range ys = window.y.TapsInside(row);
    for (int32_t column = 0; column < window.x.output; ++column, output += depth) {
      const Range xs = window.x.TapsInside(column);
      const int8_t* const first = window.Pixel(image, window.y.At(row, ys.begin), window.x.At(column, xs.begin));
      const Taps taps = {Length(ys), Length(xs), first};
      uint32_t channel = 0;
      for (; channel + 4 <= depth; channel += 4) PoolFour<Reduction>(window, taps, channel, output);
      for (; channel < depth; ++channel) PoolOne<Reduction>(window, taps, channel, output);
      if (pooling.low != INT8_MIN || pooling.high != INT8_MAX) Clamp(pooling.low, pooling.high, output, depth);
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
