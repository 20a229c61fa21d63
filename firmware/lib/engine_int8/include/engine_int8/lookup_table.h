// Operators on one int8 tensor as a table of all 256 results.
#pragma once

#include <cstdint>

#include "engine_int8/tflite_model.h"
#include "quantize/quantize.h"

namespace hil::int8 {

constexpr uint32_t kTableEntries = 256;

/// Limits of an activation on an output with these parameters.
void ActivationRange(FusedActivation activation, const QuantParams& output, int8_t* low, int8_t* high);

/// True for the operators that BuildTable() supports: TANH, LOGISTIC, RELU, RELU6, RELU_N1_TO_1, and QUANTIZE from int8 to int8.
bool HasTable(BuiltinOperator code);

/// Fills `table` so that the result for `value` is table[uint8_t(value)]; nullptr only checks. Returns false for parameters that
/// TFLM computes wrong (TANH with an output scale other than 1/128, RELU6 that rescales) or that exceed the arithmetic.
bool BuildTable(BuiltinOperator code, const QuantParams& input, const QuantParams& output, int8_t* table);

/// output[i] = table[input[i]] for `count` elements.
void Lookup(const int8_t* table, const int8_t* input, int8_t* output, uint32_t count);

}  // namespace hil::int8
