#include "board_engine/board_engine.h"
#include "engine_tflm/flashed_operators.h"
#include "engine_tflm/tflm_engine.h"

namespace hil {

Place FirstPlace() { return board_engine::StaticPlace<TflmEngine, 0, FlashedOperators>(); }
Place SecondPlace() { return board_engine::StaticPlace<TflmEngine, 1, FlashedOperators>(); }
bool VerifiesAtStart() { return true; }

}  // namespace hil
