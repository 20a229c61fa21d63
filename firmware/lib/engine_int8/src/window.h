// Windows of convolutions and pooling over an image.
#pragma once

#include <cstdint>

#include "builder.h"

namespace hil::int8 {

/// Fields of an operator's options that describe its window.
struct WindowFields {
  OptionsType options;
  uint8_t dilation_width;  // 0: it has none; the dilation of the height is the field behind it
};

struct Range {
  int32_t begin;
  int32_t end;
};

inline uint32_t Length(const Range& range) {
  return range.end > range.begin ? static_cast<uint32_t>(range.end - range.begin) : 0;
}

/// Where the taps of an operator lie: first at `row * stride - pad`, then every `dilation`.
struct Axis {
  int32_t input;
  int32_t output;
  int32_t filter;
  int32_t stride;
  int32_t dilation;
  int32_t pad;

  /// Input coordinate of a tap, possibly outside.
  int32_t At(int32_t position, int32_t tap) const { return position * stride - pad + tap * dilation; }
  bool Has(int32_t coordinate) const { return coordinate >= 0 && coordinate < input; }
  /// Taps that are inside.
  Range TapsInside(int32_t position) const;
};

struct Window {
  Axis y;
  Axis x;
  uint32_t depth;     // of the input
  uint32_t channels;  // of the output

  const int8_t* Pixel(const int8_t* image, int32_t row, int32_t column) const {
    return image + (row * x.input + column) * static_cast<int32_t>(depth);
  }
};

/// Reads the window of an operator from one image to another, with a filter of this size. False, with a reason given, if they do
/// not fit.
bool ReadWindow(Builder* builder, const Operator& op, const WindowFields& fields, const Operand& input, const Operand& output,
                uint32_t filter_height, uint32_t filter_width, Window* window);

/// False, with a reason given, for more products than an operator may take.
bool IsAffordable(Builder* builder, const Window& window, uint32_t products_per_output);

/// Fills a layer with a row of weights for each channel of a convolution's output. False, with a reason given, if it cannot run.
bool ReadChannels(Builder* builder, const Operator& op, const WindowFields& fields, const Window& window, const Tensor& weights,
                  const Tensor& bias, const Operand& input, const Operand& output, FullyConnectedLayer* layer);

}  // namespace hil::int8
