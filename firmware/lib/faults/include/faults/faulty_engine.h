// An engine around another one, with one fault.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "faults/fault.h"
#include "faults/faulty_dense.h"

namespace hil::faults {

/// Forwards everything to `engine`, with one fault.
class FaultyEngine final : public Engine {
 public:
  FaultyEngine(Fault fault, Engine* engine) : fault_(fault), engine_(engine) {}

  /// Also returns kUnsupportedOperator if the fault requires a model of dense layers only and this is another one.
  Status Init(const ByteSpan& model, const Arena& arena) override;
  Status Infer(const int8_t* input, int8_t* output) override;
  Status Tensor(uint16_t op, TensorView* values) override;
  Status RunOperator(uint16_t op) override { return dense_ ? Status::kNotSupported : engine_->RunOperator(op); }

  const EngineInfo& info() const override { return engine_->info(); }
  const char* message() const override { return message_ != nullptr ? message_ : engine_->message(); }
  uint32_t detail() const override { return engine_->detail(); }

 private:
  Status WrongTensor(int8_t* output);

  Fault fault_;
  Engine* engine_;
  const char* message_ = nullptr;
  std::vector<uint8_t> model_;  // copy that a fault changes
  std::unique_ptr<FaultyDense> dense_;
  std::vector<int8_t> previous_;
};

}  // namespace hil::faults
