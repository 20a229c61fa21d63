#include "board_engine/board_engine.h"
#include "engine_int8/flashed_kernels.h"
#include "engine_int8/int8_engine.h"

namespace hil {

Place FirstPlace() { return board_engine::StaticPlace<Int8Engine, 0, FlashedKernels()>(); }
Place SecondPlace() { return board_engine::StaticPlace<Int8Engine, 1, FlashedKernels()>(); }
bool VerifiesAtStart() { return true; }

}  // namespace hil
