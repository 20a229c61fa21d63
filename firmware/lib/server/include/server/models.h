// The models of a board: the one that runs, and room beside it for one that comes over the wire.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model_id/model_id.h"
#include "policy/policy.h"

namespace hil {

/// What one model needs. Two of them let a new model be received and tried while another one runs.
struct Place {
  Engine* engine = nullptr;   ///< one for each place; nullptr: there is no such place
  Arena arena;                ///< of the engine
  uint8_t* memory = nullptr;  ///< for the bytes of an upload, aligned to 16 bytes
  size_t capacity = 0;        ///< of `memory`; 0: nothing can be uploaded here
  Conversion* conversion = &exact_conversion;
};

/// Knows which of the two places holds the model that runs. A reset starts with the flashed one again.
class Models {
 public:
  /// Without a second place the board takes no uploads.
  Models(const Place& first, const Place& second, const hal::Clock* clock)
      : places_{first, second},
        policies_{Policy(first.engine, clock, first.conversion), Policy(second.engine, clock, second.conversion)} {}

  /// Loads the model of the image; it runs, or every inference is refused with the status that is returned. What `image` points
  /// to outlives this object. See Policy::Load().
  Outcome LoadFlashed(const ModelImage& image, bool verify) { return policies_[0].Load(image, places_[0].arena, verify); }

  /// Loads an uploaded model, which lies in the memory of standby(), and lets it take over where that succeeds; otherwise the
  /// one that runs is not touched. See Policy::Load(); `*message` is what there is to say about a refusal.
  Outcome TakeOver(const ModelImage& image, const char** message);

  Policy& running() { return policies_[running_]; }
  const Policy& running() const { return policies_[running_]; }
  bool uploaded() const { return uploaded_; }

  /// Where the next upload goes: never the place of the model that runs.
  const Place& standby() const { return places_[1 - running_]; }

  /// Bytes that an upload may have; 0: this board takes none.
  size_t upload_capacity() const { return standby().engine == nullptr ? 0 : standby().capacity; }

 private:
  Place places_[2];
  Policy policies_[2];
  ModelId ids_[2];  // of what was uploaded there
  size_t running_ = 0;
  bool uploaded_ = false;
};

}  // namespace hil
