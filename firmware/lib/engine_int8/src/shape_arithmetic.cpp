// SHAPE, and of its int32 result STRIDED_SLICE and PACK: how Keras flattens an image. None of them runs, because RESHAPE has the
// shape of its output from the file, and no operator reads int32 that is computed.
#include "engine_int8/kernel.h"

namespace hil::int8 {

const Kernel pack_kernel = {BuiltinOperator::kPack, nullptr};
const Kernel shape_kernel = {BuiltinOperator::kShape, nullptr};
const Kernel strided_slice_kernel = {BuiltinOperator::kStridedSlice, nullptr};

}  // namespace hil::int8
