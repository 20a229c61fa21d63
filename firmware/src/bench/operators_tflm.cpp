#include "engine_tflm/tflm_engine.h"
#include "operators.h"

namespace hil {

bool RunOperator(Engine*, uint16_t) { return false; }

size_t EngineObjectBytes() { return sizeof(TflmEngine); }

}  // namespace hil
