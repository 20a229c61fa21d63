// The engine of this image. platformio.ini compiles one of the files beside this one.
#pragma once

#include "engine/engine.h"

namespace hil {

/// The engine, not loaded yet.
Engine* BoardEngine();

/// The memory that it works in.
Arena BoardArena();

}  // namespace hil
