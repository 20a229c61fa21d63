// Interface of an inference engine, for int8 models, and in images that have kWide for those of other element types.
//
// Implementations: engine_int8 (compact), engine_tflm (TensorFlow Lite Micro), engine_remote (a helper process, native board).
// All take the bytes of a .tflite and an arena that the caller owns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantize/quantize.h"
#include "status/status.h"
#include "status/view.h"

namespace hil {

/// Bytes owned by the caller, which outlive their users. A model must be aligned to 16 bytes.
struct ByteSpan {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

/// Working memory of an engine, aligned to 16 bytes. Outlives the engine.
struct Arena {
  uint8_t* data = nullptr;
  size_t size = 0;
};

/// Properties of the loaded model. Strings are NUL-terminated and live as long as the engine.
struct EngineInfo {
  const char* name = "";     ///< "tflm", ...
  const char* version = "";  ///< release or commit
  uint32_t n_obs = 0;        ///< elements of the model's input
  uint32_t n_act = 0;        ///< elements of its output
  uint16_t n_ops = 0;        ///< operators, in the order of execution
  QuantParams input;
  QuantParams output;
  uint32_t arena_used = 0;  ///< bytes
  uint32_t arena_size = 0;  ///< bytes
};

/// Bytes of the output of one operator, row-major; owned by the engine and valid until its next call.
using TensorView = ArrayView<int8_t>;

/// Runs one model with one input and one output tensor, both of one element type: info().input.type.
class Engine {
 public:
  /// Loads `model`. Everything that can be checked is checked here, so that Infer() can be cheap. May be called again.
  ///
  /// Returns kOk, kModelInvalid, kModelNotInt8, kUnsupportedOperator (message() names it), kArenaTooSmall (detail() is the size
  /// needed, or 0), kEngineLost.
  virtual Status Init(const ByteSpan& model, const Arena& arena) = 0;

  /// Runs the model once: `input` is the bytes of info().n_obs raw values, `output` takes those of info().n_act, both at any
  /// alignment. Only after Init() returned kOk.
  ///
  /// Returns kOk, kInferenceFailed (detail() is the engine's code), kEngineLost.
  virtual Status Infer(const int8_t* input, int8_t* output) = 0;

  /// The output of operator `op` (below info().n_ops) in the last inference.
  ///
  /// Returns kOk, kNotSupported (this engine does not keep tensors, or this one is of another type), kEngineLost.
  virtual Status Tensor(uint16_t op, TensorView* values) = 0;

  /// Runs only operator `op` (below info().n_ops) on the present results of those before it, for profiling.
  ///
  /// Returns kOk, kNotSupported (this engine runs only whole models).
  virtual Status RunOperator(uint16_t) { return Status::kNotSupported; }

  virtual const EngineInfo& info() const = 0;

  /// Message for the last status that was not kOk; empty otherwise.
  virtual const char* message() const = 0;

  /// Detail of the last status that was not kOk.
  virtual uint32_t detail() const = 0;

 protected:
  ~Engine() = default;
};

}  // namespace hil
