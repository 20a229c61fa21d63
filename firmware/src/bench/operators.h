// What the benchmark needs of an engine beyond its interface. platformio.ini compiles one of the files beside this one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/engine.h"

namespace hil {

/// Runs one operator on what the ones before it left. Returns false where this engine cannot.
bool RunOperator(Engine* engine, uint16_t op);

/// Size of the engine's object, which lies outside its arena.
size_t EngineObjectBytes();

}  // namespace hil
