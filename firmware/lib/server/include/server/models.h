// The models of a board: the active one, and a second place for an upload.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model_id/model_id.h"
#include "policy/policy.h"

namespace hil {

/// Resources of one model. With two places, a new model is received and verified while the other one runs.
struct Place {
  Engine* engine = nullptr;   ///< one per place; nullptr: no such place
  Arena arena;                ///< of the engine
  uint8_t* memory = nullptr;  ///< for the bytes of an upload, aligned to 16 bytes
  size_t capacity = 0;        ///< of `memory`; 0: no uploads
  Conversion* conversion = &exact_conversion;
};

/// Tracks which of the two places holds the active model. A reset restores the flashed model.
class Models {
 public:
  /// Without a second place the board accepts no uploads.
  Models(const Place& first, const Place& second, const hal::Clock* clock)
      : places_{first, second},
        policies_{Policy(first.engine, clock, first.conversion), Policy(second.engine, clock, second.conversion)} {}

  /// Loads the model of the image. On failure, every inference is refused with the returned status. The memory that `image`
  /// points to must outlive this object. See Policy::Load().
  Outcome LoadFlashed(const ModelImage& image, bool verify) { return policies_[0].Load(image, places_[0].arena, verify); }

  /// Loads an uploaded model, which lies in the memory of standby(), without replaying its vectors. See Policy::Load().
  Outcome LoadStandby(const ModelImage& image);

  /// The policy of the next upload.
  Policy& standby_policy() { return policies_[1 - running_]; }

  /// Makes the standby policy the active one.
  void Activate();

  Policy& running() { return policies_[running_]; }
  const Policy& running() const { return policies_[running_]; }
  bool uploaded() const { return uploaded_; }

  /// Place of the next upload: never that of the active model.
  const Place& standby() const { return places_[1 - running_]; }

  /// Maximum size of an upload in bytes; 0: uploads are not supported.
  size_t upload_capacity() const { return standby().engine == nullptr ? 0 : standby().capacity; }

 private:
  Place places_[2];
  Policy policies_[2];
  ModelId ids_[2];  // of what was uploaded there
  size_t running_ = 0;
  bool uploaded_ = false;
};

}  // namespace hil
