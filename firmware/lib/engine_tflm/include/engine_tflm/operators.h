// Which operators of TensorFlow Lite Micro an image has: only those that are registered are linked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "engine_tflm/tflm_api.h"
#include "quantize/quantize.h"

namespace hil {

// clang-format off
/// Those that an image can have: name in the schema, method of the resolver, and where the library has one, the registration for
/// int8, which images take that run no other models.
#define HIL_TFLM_OPERATORS(X) \
  X(ABS, Abs) \
  X(ADD, Add, tflite::Register_ADD_INT8()) \
  X(ADD_N, AddN) \
  X(AVERAGE_POOL_2D, AveragePool2D, tflite::Register_AVERAGE_POOL_2D_INT8()) \
  X(BATCH_MATMUL, BatchMatMul) \
  X(BATCH_TO_SPACE_ND, BatchToSpaceNd) \
  X(CONCATENATION, Concatenation) \
  X(CONV_2D, Conv2D, tflite::Register_CONV_2D_INT8()) \
  X(DEPTHWISE_CONV_2D, DepthwiseConv2D, tflite::Register_DEPTHWISE_CONV_2D_INT8()) \
  X(DEPTH_TO_SPACE, DepthToSpace) \
  X(DEQUANTIZE, Dequantize) \
  X(DIV, Div) \
  X(ELU, Elu) \
  X(EXPAND_DIMS, ExpandDims) \
  X(FILL, Fill) \
  X(FULLY_CONNECTED, FullyConnected, tflite::Register_FULLY_CONNECTED_INT8()) \
  X(GATHER, Gather) \
  X(HARD_SWISH, HardSwish) \
  X(L2_NORMALIZATION, L2Normalization) \
  X(LEAKY_RELU, LeakyRelu) \
  X(LOGISTIC, Logistic) \
  X(LOG_SOFTMAX, LogSoftmax) \
  X(MAXIMUM, Maximum) \
  X(MAX_POOL_2D, MaxPool2D, tflite::Register_MAX_POOL_2D_INT8()) \
  X(MEAN, Mean) \
  X(MINIMUM, Minimum) \
  X(MIRROR_PAD, MirrorPad) \
  X(MUL, Mul, tflite::Register_MUL_INT8()) \
  X(PACK, Pack) \
  X(PAD, Pad) \
  X(PADV2, PadV2) \
  X(PRELU, Prelu) \
  X(QUANTIZE, Quantize) \
  X(REDUCE_MAX, ReduceMax) \
  X(RELU, Relu) \
  X(RELU6, Relu6) \
  X(RESHAPE, Reshape) \
  X(RESIZE_BILINEAR, ResizeBilinear) \
  X(RESIZE_NEAREST_NEIGHBOR, ResizeNearestNeighbor) \
  X(RSQRT, Rsqrt) \
  X(SHAPE, Shape) \
  X(SLICE, Slice) \
  X(SOFTMAX, Softmax, tflite::Register_SOFTMAX_INT8()) \
  X(SPACE_TO_BATCH_ND, SpaceToBatchNd) \
  X(SPACE_TO_DEPTH, SpaceToDepth) \
  X(SPLIT, Split) \
  X(SPLIT_V, SplitV) \
  X(SQUARED_DIFFERENCE, SquaredDifference) \
  X(SQUEEZE, Squeeze) \
  X(STRIDED_SLICE, StridedSlice) \
  X(SUB, Sub) \
  X(SUM, Sum) \
  X(SVDF, Svdf) \
  X(TANH, Tanh) \
  X(TRANSPOSE, Transpose) \
  X(TRANSPOSE_CONV, TransposeConv) \
  X(UNIDIRECTIONAL_SEQUENCE_LSTM, UnidirectionalSequenceLSTM) \
  X(UNPACK, Unpack) \
  X(ZEROS_LIKE, ZerosLike)
// clang-format on

namespace tflm {

/// Adds an operator, by its number in the schema, to a resolver; does nothing for one that is not in the list.
template <uint8_t kCode>
struct Adder {
  template <typename Resolver>
  static TfLiteStatus To(Resolver*) {
    return kTfLiteOk;
  }
};

#define HIL_TFLM_ADDER(NAME, METHOD, ...)          \
  template <>                                      \
  struct Adder<tflite::BuiltinOperator_##NAME> {   \
    template <typename Resolver>                   \
    static TfLiteStatus To(Resolver* resolver) {   \
      if constexpr (kWide) {                       \
        return resolver->Add##METHOD();            \
      } else {                                     \
        return resolver->Add##METHOD(__VA_ARGS__); \
      }                                            \
    }                                              \
  };
HIL_TFLM_OPERATORS(HIL_TFLM_ADDER)
#undef HIL_TFLM_ADDER

using Prepare = TfLiteStatus (*)(TfLiteContext*, TfLiteNode*);
using Invoke = TfLiteStatus (*)(TfLiteContext*, TfLiteNode*);

/// Called when the interpreter has prepared an operator; see TflmEngine.
void KeepPrepared(TfLiteContext* context, TfLiteNode* node, Invoke invoke);

/// What the library registers for an operator.
template <uint8_t kCode>
struct Original {
  static inline Prepare prepare = nullptr;
  static inline Invoke invoke = nullptr;

  static TfLiteStatus PrepareAndKeep(TfLiteContext* context, TfLiteNode* node) {
    const TfLiteStatus status = prepare(context, node);
    if (status == kTfLiteOk) KeepPrepared(context, node, invoke);
    return status;
  }
};

/// Puts PrepareAndKeep() in the place of what prepares an operator.
template <uint8_t kCode, typename Resolver>
bool Intercept(const Resolver& resolver) {
  const auto* registered = resolver.FindOp(static_cast<tflite::BuiltinOperator>(kCode));
  if (registered == nullptr || registered->prepare == nullptr) return true;
  Original<kCode>::prepare = registered->prepare;
  Original<kCode>::invoke = registered->invoke;
  // It lies in the resolver, which has no other access to it.
  const_cast<std::remove_const_t<std::remove_pointer_t<decltype(registered)>>*>(registered)->prepare =
      Original<kCode>::PrepareAndKeep;
  return true;
}

}  // namespace tflm

/// A resolver with operators, by their numbers in the schema; nullptr if the library refuses one.
template <uint8_t... kCodes>
const tflite::MicroOpResolver* TflmOperators() {
  static tflite::MicroMutableOpResolver<sizeof...(kCodes)> resolver;
  static const bool registered =
      ((tflm::Adder<kCodes>::To(&resolver) == kTfLiteOk) && ...) && (tflm::Intercept<kCodes>(resolver) && ...);
  return registered ? &resolver : nullptr;
}

}  // namespace hil
