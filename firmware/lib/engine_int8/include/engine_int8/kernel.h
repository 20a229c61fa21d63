// Operators that an image has only if something names them: the linker takes none of these by itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine_int8/tflite_model.h"
#include "status/status.h"

namespace hil::int8 {

struct WithKernels;
template <typename Kind>
class BuilderOf;
using Builder = BuilderOf<WithKernels>;
class Cursor;
struct Operand;
struct Program;
struct Refusal;
struct Signature;
struct Step;
struct KernelTable;

/// One operator with its code.
struct Kernel {
  BuiltinOperator code;
  /// Checks the operator and prepares its step. Returns false if it is refused. nullptr: it computes a shape, see
  /// shape_arithmetic.cpp.
  bool (*prepare)(Builder* builder, const Operator& op, const Operand& input, const Operand& output, Step* step);
};

extern const Kernel add_kernel, average_pool_2d_kernel, conv_2d_kernel, depthwise_conv_2d_kernel, max_pool_2d_kernel, mean_kernel,
    mul_kernel, pack_kernel, pad_kernel, shape_kernel, softmax_kernel, strided_slice_kernel;

/// Which tensors remain after an inference. Those that need not can share memory.
enum class Keeps : uint8_t { kAllIfTheyFit, kAll, kNone };

/// Validates a model and builds its program in the memory of `cursor`; with a counting cursor it only validates.
///
/// Returns kOk, kModelInvalid, kModelNotInt8, kUnsupportedOperator; `refusal` then holds the reason. The caller compares
/// cursor->needed() with its memory.
Status BuildWithKernels(const KernelTable& kernels, Keeps keeps, TfliteModel* model, Cursor* cursor, Program* program,
                        Signature* signature, Refusal* refusal);

/// The same for models that need no kernels; every tensor is kept.
Status BuildWithoutKernels(const KernelTable&, Keeps, TfliteModel* model, Cursor* cursor, Program* program, Signature* signature,
                           Refusal* refusal);

/// The kernels that an engine runs besides its own operators.
struct KernelTable {
  const Kernel* const* kernels;       // the last one is nullptr
  decltype(&BuildWithKernels) build;  // so that an image has one of both alone
};

struct KernelList {
  static constexpr size_t kSize = 12;
  const Kernel* kernels[kSize + 1];
};

/// The kernels for some operators, by their numbers in TensorFlow Lite's schema; others are ignored.
template <size_t kCount>
constexpr KernelList KernelsOf(const uint8_t (&codes)[kCount]) {
  constexpr struct {
    BuiltinOperator code;
    const Kernel* kernel;
  } kAll[KernelList::kSize] = {
      {BuiltinOperator::kAdd, &add_kernel},
      {BuiltinOperator::kAveragePool2D, &average_pool_2d_kernel},
      {BuiltinOperator::kConv2D, &conv_2d_kernel},
      {BuiltinOperator::kDepthwiseConv2D, &depthwise_conv_2d_kernel},
      {BuiltinOperator::kMaxPool2D, &max_pool_2d_kernel},
      {BuiltinOperator::kMean, &mean_kernel},
      {BuiltinOperator::kMul, &mul_kernel},
      {BuiltinOperator::kPad, &pad_kernel},
      {BuiltinOperator::kSoftmax, &softmax_kernel},
      {BuiltinOperator::kStridedSlice, &strided_slice_kernel},
      {BuiltinOperator::kShape, &shape_kernel},
      {BuiltinOperator::kPack, &pack_kernel},
  };
  KernelList list = {};
  size_t found = 0;
  for (const auto& entry : kAll) {
    bool wanted = false;
    for (const uint8_t code : codes) wanted = wanted || static_cast<uint32_t>(entry.code) == code;
    if (wanted) list.kernels[found++] = entry.kernel;
  }
  return list;
}

inline constexpr KernelTable kNoKernels = {nullptr, &BuildWithoutKernels};

/// Every kernel.
inline constexpr KernelList kEveryKernel = KernelsOf({0, 1, 3, 4, 17, 18, 25, 34, 40, 45, 77, 83});
inline constexpr KernelTable kAllKernels = {kEveryKernel.kernels, &BuildWithKernels};

}  // namespace hil::int8
