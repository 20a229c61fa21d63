#include "board_engine/board_engine.h"
#include "engine_tflm/tflm_engine.h"

namespace hil {

Place FirstPlace() { return board_engine::StaticPlace<TflmEngine, 0>(); }
Place SecondPlace() { return board_engine::StaticPlace<TflmEngine, 1>(); }
bool VerifiesAtStart() { return true; }

}  // namespace hil
