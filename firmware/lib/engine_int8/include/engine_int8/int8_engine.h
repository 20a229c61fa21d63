// A compact int8 engine: the same `.tflite` bytes and the same results as TensorFlow Lite Micro, without its interpreter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/engine.h"
#include "engine_int8/kernel.h"
#include "engine_int8/program.h"

namespace hil {

/// Runs feed-forward policies: FULLY_CONNECTED, TANH, LOGISTIC, RELU, RELU6, RELU_N1_TO_1, QUANTIZE, DEQUANTIZE, RESHAPE.
/// Kernels add to them: ADD, AVERAGE_POOL_2D, CONV_2D, DEPTHWISE_CONV_2D, MAX_POOL_2D, MEAN, MUL, PAD, SOFTMAX.
/// And of int32, for the shape that RESHAPE takes: PACK, SHAPE, STRIDED_SLICE.
/// It allocates no memory, reads the weights in place, and validates everything it reads from the file.
class Int8Engine final : public Engine {
 public:
  /// `kernels`: FlashedKernels(), &int8::kAllKernels, or nullptr for none; they outlive the engine.
  explicit constexpr Int8Engine(const int8::KernelTable* kernels = nullptr)
      : kernels_(kernels == nullptr ? &int8::kNoKernels : kernels) {}

  /// Bytes of arena that Init() needs for a model; with `keeps_tensors`, those for which Tensor() has every tensor.
  ///
  /// Returns kOk, kModelInvalid, kModelNotInt8, kUnsupportedOperator.
  Status RequiredArena(const ByteSpan& model, size_t* bytes, bool keeps_tensors = false) const;

  /// Returns kOk, kModelInvalid, kModelNotInt8, kUnsupportedOperator (detail() is the operator's builtin code * 256 + its
  /// number), kArenaTooSmall (detail() is RequiredArena()).
  Status Init(const ByteSpan& model, const Arena& arena) override;
  /// Returns kOk.
  Status Infer(const int8_t* input, int8_t* output) override;
  /// Returns kOk, kNotSupported for a tensor of float or a shape, and where the arena is too small to keep every tensor.
  Status Tensor(uint16_t op, TensorView* values) override;
  /// Returns kOk.
  Status RunOperator(uint16_t op) override;

  const EngineInfo& info() const override { return info_; }
  const char* message() const override { return message_; }
  uint32_t detail() const override { return detail_; }

 private:
  const int8::KernelTable* kernels_;
  int8::Program program_;
  EngineInfo info_;
  uint32_t detail_ = 0;
  const char* message_ = "";
};

}  // namespace hil
