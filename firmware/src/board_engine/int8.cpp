#include "board_engine/board_engine.h"
#include "engine_int8/int8_engine.h"

namespace hil {
namespace {

constexpr size_t kArenaBytes = 16 * 1024;

alignas(16) uint8_t arena[kArenaBytes];
alignas(16) uint8_t second_arena[kArenaBytes];
Int8Engine engine;
Int8Engine second_engine;

}  // namespace

Engine* BoardEngine() { return &engine; }

Arena BoardArena() { return {arena, sizeof arena}; }

Engine* SecondEngine() { return &second_engine; }

Arena SecondArena() { return {second_arena, sizeof second_arena}; }

}  // namespace hil
