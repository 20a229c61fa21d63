#include "engine_int8/int8_engine.h"
#include "engine_size.h"

size_t hil::EngineObjectBytes() { return sizeof(Int8Engine); }
