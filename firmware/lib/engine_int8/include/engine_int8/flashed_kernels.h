// The kernels that the model in the image needs: `model.h` names its operators where the engine's own are not enough.
#pragma once

#include "engine_int8/int8_engine.h"
#include "model.h"

namespace hil {

#ifdef HIL_MODEL_OPERATORS
inline constexpr int8::KernelList kFlashedList = int8::KernelsOf({HIL_MODEL_OPERATORS});
inline constexpr int8::KernelTable kFlashedKernels = {kFlashedList.kernels, &int8::BuildWithKernels};
constexpr bool IsEmpty(const int8::KernelList& list) { return list.kernels[0] == nullptr; }
constexpr const int8::KernelTable* FlashedKernels() { return IsEmpty(kFlashedList) ? nullptr : &kFlashedKernels; }
#else
constexpr const int8::KernelTable* FlashedKernels() { return nullptr; }
#endif

}  // namespace hil
