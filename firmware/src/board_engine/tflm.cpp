#include "board_engine/board_engine.h"
#include "engine_tflm/tflm_engine.h"

namespace hil {
namespace {

constexpr size_t kArenaBytes = 16 * 1024;

alignas(16) uint8_t arena[kArenaBytes];
TflmEngine engine;

}  // namespace

Engine* BoardEngine() { return &engine; }

Arena BoardArena() { return {arena, sizeof arena}; }

}  // namespace hil
