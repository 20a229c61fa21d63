#include "board_engine/board_engine.h"
#include "engine_int8/int8_engine.h"

namespace hil {
namespace {

constexpr size_t kArenaBytes = 16 * 1024;

alignas(16) uint8_t arena[kArenaBytes];
Int8Engine engine;

}  // namespace

Engine* BoardEngine() { return &engine; }

Arena BoardArena() { return {arena, sizeof arena}; }

}  // namespace hil
