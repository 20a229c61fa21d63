// DEPTHWISE_CONV_2D: every input channel has filters of its own.
#include "dense_rows.h"
#include "engine_int8/fixed_point.h"
#include "mve.h"
#include "window.h"

namespace hil::int8 {

namespace {

constexpr WindowFields kFields = {{2, 4}, 5};
constexpr uint32_t kDepthMultiplier = 3;

struct Depthwise {
  Window window;
  FullyConnectedLayer layer;  // its weights are [filter height][filter width][rows]
  uint32_t multiplier;        // outputs of an input channel
  uint32_t pixel_step;        // in memory, from one tap to the next
  uint32_t line_step;         // from one line of taps to the next
  uint32_t weights_step;      // the same of the weights
};

/// Taps of one output that are inside the image.
struct Taps {
  uint32_t height;
  uint32_t width;
  const int8_t* pixel;    // of the first one
  const int8_t* weights;  // of the first one
};

/// Calls `add(pixel, weights)` for every tap; both point at `channel`.
template <typename Add>
HIL_ALWAYS_INLINE inline void ForEachTap(const Depthwise& depthwise, const Taps& taps, uint32_t channel, const Add& add) {
  const int8_t* line = taps.pixel + channel;
  const int8_t* weights_line = taps.weights + channel;
  for (uint32_t y = taps.height; y != 0; --y, line += depthwise.line_step, weights_line += depthwise.weights_step) {
    const int8_t* pixel = line;
    const int8_t* weights = weights_line;
    for (uint32_t x = taps.width; x != 0; --x, pixel += depthwise.pixel_step, weights += depthwise.layer.rows)
      add(pixel, weights);
  }
}

#if defined(HIL_DENSE_ROWS_MVE)

constexpr uint32_t kLeastChannels = 1;

/// All channels of one output of a layer that `fits` and whose multiplier is 1: eight at a time, those of even and odd number
/// apart.
void FinishPixel(const Depthwise& depthwise, const Taps& taps, int8_t* output) {
  constexpr uint32_t kLanes = 8;
  const FullyConnectedLayer& layer = depthwise.layer;
  const int32_t* const bias = reinterpret_cast<const int32_t*>(layer.bias);  // aligned where the layer fits
  for (uint32_t channel = 0; channel < layer.rows; channel += kLanes) {
    const uint32_t left = layer.rows - channel;
    const mve_pred16_t in_rows = vctp16q(left);
    int32x4_t even = vdupq_n_s32(0);
    int32x4_t odd = even;
    ForEachTap(depthwise, taps, channel, [&](const int8_t* pixel, const int8_t* weights) {
      const int16x8_t inputs = vsubq_n_s16(vldrbq_z_s16(pixel, in_rows), layer.input_zero_point);
      const int16x8_t factors = vldrbq_z_s16(weights, in_rows);
      even = vaddq_s32(even, vmullbq_int_s16(inputs, factors));
      odd = vaddq_s32(odd, vmulltq_int_s16(inputs, factors));
    });
    int32_t sums[kLanes];
    const int32x4x2_t both = {{even, odd}};
    vst2q_s32(sums, both);
    for (uint32_t half = 0; half < kLanes && half < left; half += 4) {
      const uint32_t row = channel + half;
      const mve_pred16_t in_half = vctp32q(left - half);
      const int32x4_t four = vaddq_s32(vldrwq_s32(sums + half), vldrwq_z_s32(bias + row, in_half));
      vstrbq_p_s32(output + row, FinishFour(four, layer, row, in_half), in_half);
    }
  }
}

#else

constexpr uint32_t kLeastChannels = 4;

/// Sums of four neighboring channels.
struct Four {
  int32_t a;
  int32_t b;
  int32_t c;
  int32_t d;
};

/// Adds the products of all taps. A function of its own, so that its loop has the registers.
__attribute__((noinline)) Four AddTaps(const Depthwise& depthwise, const Taps& taps, uint32_t channel, const Four& first) {
  int32_t a = first.a;
  int32_t b = first.b;
  int32_t c = first.c;
  int32_t d = first.d;
#if defined(HIL_CORTEX_M_DSP)
  const uint32_t negated = static_cast<uint16_t>(-depthwise.layer.input_zero_point) * 0x10001u;
  ForEachTap(depthwise, taps, channel, [&](const int8_t* pixel, const int8_t* weights) {
    uint32_t x;
    uint32_t w;
    std::memcpy(&x, pixel, sizeof x);  // at any address: these processors support it
    std::memcpy(&w, weights, sizeof w);
    uint32_t odd_x;
    uint32_t odd_w;
    __asm__(
        "sxtab16 %[odd_x], %[negated], %[x], ror #8\n\t"
        "sxtab16 %[x], %[negated], %[x]         \n\t"
        "sxtb16  %[odd_w], %[w], ror #8         \n\t"
        "sxtb16  %[w], %[w]                     \n\t"
        "smlabb  %[a], %[x], %[w], %[a]         \n\t"
        "smlabb  %[b], %[odd_x], %[odd_w], %[b] \n\t"
        "smlatt  %[c], %[x], %[w], %[c]         \n\t"
        "smlatt  %[d], %[odd_x], %[odd_w], %[d]"
        : [x] "+r"(x), [w] "+r"(w), [odd_x] "=&r"(odd_x), [odd_w] "=&r"(odd_w), [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d)
        : [negated] "r"(negated));
  });
#else
  const int32_t zero_point = depthwise.layer.input_zero_point;
  ForEachTap(depthwise, taps, channel, [&](const int8_t* pixel, const int8_t* weights) {
    a += (pixel[0] - zero_point) * weights[0];
    b += (pixel[1] - zero_point) * weights[1];
    c += (pixel[2] - zero_point) * weights[2];
    d += (pixel[3] - zero_point) * weights[3];
  });
#endif
  return {a, b, c, d};
}

/// All channels of one output of a layer that `fits` and whose multiplier is 1.
void FinishPixel(const Depthwise& depthwise, const Taps& taps, int8_t* output) {
  const FullyConnectedLayer& layer = depthwise.layer;
  const int32_t one_and_zero_point = 1 + 2 * layer.output_zero_point;
  for (uint32_t channel = 0;;) {
    const uint8_t* const bias = layer.bias + 4 * channel;
    const Four sums =
        AddTaps(depthwise, taps, channel, {LoadInt32(bias), LoadInt32(bias + 4), LoadInt32(bias + 8), LoadInt32(bias + 12)});
    const int32_t* const fractions = layer.fractions + channel;
    const int8_t* const shifts = layer.shifts + channel;
    int8_t* const to = output + channel;
    to[0] = FinishRow(2 * sums.a, fractions[0], shifts[0], one_and_zero_point);
    to[1] = FinishRow(2 * sums.b, fractions[1], shifts[1], one_and_zero_point);
    to[2] = FinishRow(2 * sums.c, fractions[2], shifts[2], one_and_zero_point);
    to[3] = FinishRow(2 * sums.d, fractions[3], shifts[3], one_and_zero_point);
    if (channel + 4 == layer.rows) break;
    channel += channel + 8 <= layer.rows ? 4 : layer.rows - 4 - channel;  // the last four may overlap with those before
  }
  ClampToActivation(layer, output);
}

#endif

/// All channels of one output of any layer; sums wrap.
void FinishPixelExact(const Depthwise& depthwise, const Taps& taps, int8_t* output) {
  const FullyConnectedLayer& layer = depthwise.layer;
  uint32_t row = 0;
  for (uint32_t channel = 0; channel < depthwise.window.depth; ++channel) {
    for (uint32_t i = 0; i < depthwise.multiplier; ++i, ++row) {
      uint32_t sum = static_cast<uint32_t>(LoadInt32(layer.bias + 4 * row));
      ForEachTap(depthwise, taps, channel, [&](const int8_t* pixel, const int8_t* weights) {
        sum += static_cast<uint32_t>((*pixel - layer.input_zero_point) * weights[row - channel]);
      });
      output[row] = FinishExact(layer, row, sum);
    }
  }
  ClampToActivation(layer, output);
}

template <void (*kFinishPixel)(const Depthwise&, const Taps&, int8_t*)>
void Run(const Step& step, void*) {
  const Depthwise& depthwise = *static_cast<const Depthwise*>(step.linked.parameters);
  const Window& window = depthwise.window;
  const uint32_t channels = depthwise.layer.rows;
  const int8_t* const image = static_cast<const int8_t*>(step.input);
  int8_t* output = static_cast<int8_t*>(step.output);
  for (int32_t row = 0; row < window.y.output; ++row) {
    const Range ys = window.y.TapsInside(row);
    for (int32_t column = 0; column < window.x.output; ++column, output += channels) {
      const Range xs = window.x.TapsInside(column);
      const Taps taps = {Length(ys), Length(xs), window.Pixel(image, window.y.At(row, ys.begin), window.x.At(column, xs.begin)),
                         depthwise.layer.weights + static_cast<uint32_t>(ys.begin * window.x.filter + xs.begin) * channels};
      kFinishPixel(depthwise, taps, output);
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
  const uint32_t pixel_step = static_cast<uint32_t>(window.x.dilation) * window.depth;
  const uint32_t line_step = static_cast<uint32_t>(window.y.dilation * window.x.input) * window.depth;
  depthwise = {window, layer, multiplier, pixel_step, line_step, static_cast<uint32_t>(window.x.filter) * channels};
  const bool is_fast = layer.fits && multiplier == 1 && channels >= kLeastChannels;
  step->linked.run = is_fast ? Run<FinishPixel> : Run<FinishPixelExact>;
  return true;
}

}  // namespace

const Kernel depthwise_conv_2d_kernel = {BuiltinOperator::kDepthwiseConv2D, Prepare};

}  // namespace hil::int8
