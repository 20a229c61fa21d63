// A validated model, prepared for Int8Engine.
#pragma once

#include <cstdint>

#include "engine_int8/fully_connected.h"
#include "engine_int8/tflite_model.h"
#include "quantize/quantize.h"
#include "status/status.h"

namespace hil::int8 {

constexpr uint32_t kMaxOperators = 64;

enum class StepKind : uint8_t {
  kFullyConnected,
  kLookup,
  kAlias,  // RESHAPE: the output is the input; or shape arithmetic, without data
  kDequantize,
  kQuantize,  // from float
  kLinked,    // by a Kernel
};

/// One operator, ready to run.
struct Step {
  StepKind kind;
  TensorType output_type;  // kAbsent: it is not kept
  uint32_t elements;       // of the output
  const void* input;
  void* output;
  union {
    FullyConnectedLayer layer;
    const int8_t* table;
    QuantParams quant;
    struct {
      void (*run)(const Step& step, void* scratch);
      const void* parameters;
    } linked;
  };
};

/// Allocates from a block of the caller; without a block it only counts.
class Cursor {
 public:
  Cursor(uint8_t* memory, uint32_t size) : memory_(memory), size_(size) {}

  /// Memory for `count` objects, nullptr when only counting or if it does not fit; `needed()` grows in any case.
  template <typename T>
  T* Take(uint32_t count) {
    needed_ = (needed_ + alignof(T) - 1) & ~static_cast<uint32_t>(alignof(T) - 1);
    const uint32_t start = needed_;
    needed_ += count * static_cast<uint32_t>(sizeof(T));
    return memory_ != nullptr && needed_ <= size_ ? static_cast<T*>(static_cast<void*>(memory_ + start)) : nullptr;
  }

  uint32_t needed() const { return needed_; }
  uint32_t size() const { return size_; }

 private:
  uint8_t* memory_;
  uint32_t size_;
  uint32_t needed_ = 0;
};

/// A model's operators with precomputed parameters, which lie in the arena.
struct Program {
  Step* steps = nullptr;
  uint32_t n_steps = 0;
  int8_t* input = nullptr;
  const int8_t* output = nullptr;
  void* scratch = nullptr;
};

/// A model's input and output.
struct Signature {
  QuantParams input;
  QuantParams output;
  uint32_t n_obs = 0;
  uint32_t n_act = 0;
};

/// Where a model was refused: number and builtin code of the operator, and the reason.
struct Refusal {
  uint32_t op = 0;
  uint32_t code = 0;
  const char* reason = "";
};

}  // namespace hil::int8
