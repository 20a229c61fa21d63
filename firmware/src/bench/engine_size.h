// platformio.ini compiles one of the files beside this one.
#pragma once

#include <cstddef>

namespace hil {

/// Size of the engine's object, which lies outside its arena.
size_t EngineObjectBytes();

}  // namespace hil
