// Intentional faults of emulated boards, for tests of the diagnostic tools.
#pragma once

#include <cstddef>

namespace hil::faults {

enum class Fault {
  kNone,
  // observation to int8
  kInputTruncate,
  kInputTruncateSum,
  kInputFloor,
  kInputCastHalfUp,
  kInputHalfUp,
  kInputHalfEven,
  kInputReciprocal,
  kInputFloat64,
  kInputWrap,
  kInputNoZeroPoint,
  kInputZeroPointAbove,
  kInputZeroPointBelow,
  kInputScaleDigits,
  kInputOutputScale,
  kInputSwappedBytes,
  kInputPermuted,
  kInputStale,
  // int8 to int8
  kModelOther,
  kModelConstant,
  kModelWrongTensor,
  kModelPermuted,
  kModelStale,
  kModelWrap,
  kModelFirstScale,
  kModelSingleRounding,
  kModelFloored,
  kModelFloat32,
  kModelTruncated,
  kModelNoBias,
  kModelNoActivation,
  // int8 to action
  kOutputNoZeroPoint,
  kOutputZeroPointAbove,
  kOutputZeroPointBelow,
  kOutputScaleDigits,
  kOutputUnsigned,
  kOutputRaw127,
  kOutputSwappedBytes,
};

/// One fault of the gallery.
struct Entry {
  Fault fault;
  const char* name;         // argument of --fault
  const char* description;  // what the firmware does
};

/// Every fault except kNone; `*count` is their number.
const Entry* Gallery(size_t* count);

/// The fault of that name, or kNone.
Fault Find(const char* name);

/// The fault of that number, counted from 1 in the order of the gallery; kNone for any other number.
Fault At(size_t number);

}  // namespace hil::faults
