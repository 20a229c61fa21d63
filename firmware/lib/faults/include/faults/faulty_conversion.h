// Faulty conversion of observations and actions.
#pragma once

#include <cstdint>

#include "engine/engine.h"
#include "faults/fault.h"
#include "policy/policy.h"

namespace hil::faults {

/// ExactConversion with one fault.
class FaultyConversion final : public Conversion {
 public:
  /// `engine` provides the quantization parameters of the model's output.
  FaultyConversion(Fault fault, const Engine* engine) : fault_(fault), engine_(engine) {}

  void ToCodes(const ArrayView<float>& values, const QuantParams& params, int8_t* codes) override;
  void ToValues(const ArrayView<int8_t>& codes, const QuantParams& params, float* values) override;

 private:
  int8_t ToCode(float value, const QuantParams& params) const;
  float ToValue(int8_t code, const QuantParams& params) const;

  Fault fault_;
  const Engine* engine_;
  bool has_previous_ = false;
  float previous_[kFrameObs] = {};  // observation, or part of one, before the last
};

}  // namespace hil::faults
