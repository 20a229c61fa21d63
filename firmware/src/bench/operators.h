// What the benchmark needs beyond the engine's interface. platformio.ini compiles one of the files beside this one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/engine.h"

namespace hil {

/// Runs one operator on the present results of those before it. Returns false if this engine cannot.
bool RunOperator(Engine* engine, uint16_t op);

/// Size of the engine's object, which lies outside its arena.
size_t EngineObjectBytes();

}  // namespace hil
