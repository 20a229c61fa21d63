// The engines of this image. platformio.ini compiles one of the files beside this one.
#pragma once

#include "policy/table_conversion.h"
#include "server/models.h"

#if __has_include("build_info.h")
#include "build_info.h"
#endif

namespace hil {

/// The place of the flashed model, and the one for a model that is uploaded: engine and arena, no memory for an upload. An unused
/// function takes no memory.
Place FirstPlace();
Place SecondPlace();

/// Whether the board replays its golden vectors at the start; see Policy::Load(). A faulty one must run regardless.
bool VerifiesAtStart();

namespace board_engine {

#if !defined(HIL_ARENA_BYTES)
#define HIL_ARENA_BYTES (16 * 1024)
#endif
#if !defined(HIL_MODEL_ARENA_BYTES)
#define HIL_MODEL_ARENA_BYTES HIL_ARENA_BYTES
#endif
/// Of the model in the image, which the build may raise, and of the one that is uploaded first.
inline constexpr size_t kArenaBytes[] = {HIL_MODEL_ARENA_BYTES, HIL_ARENA_BYTES};

/// One engine of this type, made of kArguments, with an arena for each number.
template <typename EngineType, int kNumber, auto... kArguments>
Place StaticPlace() {
  alignas(16) static uint8_t arena[kArenaBytes[kNumber]];
  static EngineType engine(kArguments...);
  Place place;
  place.engine = &engine;
  place.arena = {arena, sizeof arena};
#if defined(__ARM_ARCH_6M__)  // no floating-point unit
  static TableConversion conversion;
  place.conversion = &conversion;
#endif
  return place;
}

}  // namespace board_engine
}  // namespace hil
