#include "engine_int8/int8_engine.h"
#include "operators.h"

namespace hil {

bool RunOperator(Engine* engine, uint16_t op) {
  static_cast<Int8Engine*>(engine)->RunOperator(op);
  return true;
}

size_t EngineObjectBytes() { return sizeof(Int8Engine); }

}  // namespace hil
