// The engines of this image. platformio.ini compiles one of the files beside this one.
#pragma once

#include "engine/engine.h"

namespace hil {

/// The engine of the flashed model, not loaded yet, and the memory that it works in.
Engine* BoardEngine();
Arena BoardArena();

/// The same once more, for a model that is uploaded. What is not called takes no memory.
Engine* SecondEngine();
Arena SecondArena();

}  // namespace hil
