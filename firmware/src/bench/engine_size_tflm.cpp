#include "engine_size.h"
#include "engine_tflm/tflm_engine.h"

size_t hil::EngineObjectBytes() { return sizeof(TflmEngine); }
