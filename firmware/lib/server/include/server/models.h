// The models of a board: the one that runs, and room beside it for one that comes over the wire.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model_id/model_id.h"
#include "server/inference.h"

namespace hil {

/// A place for one model. Two of them let a new model be received and tried while another one runs.
struct ModelSlot {
  Inference* inference = nullptr;  ///< with an engine of its own; nullptr: the board has one place only
  Arena arena;                     ///< of an uploaded model
  uint8_t* memory = nullptr;       ///< for the bytes of an upload, aligned to 16 bytes
  size_t capacity = 0;             ///< of `memory`; 0: nothing can be uploaded here
};

/// Knows which of the two places holds the model that runs. A reset starts with the flashed one again.
class Models {
 public:
  /// `flashed.inference` has loaded the model of the image, or failed to. `other` may stay empty: then the board takes no
  /// uploads. `model_id` and `golden` belong to the model of the image; the id outlives this object.
  Models(const ModelSlot& flashed, const ModelSlot& other, const char* model_id, const GoldenVectors& golden)
      : slots_{flashed, other}, flashed_id_(model_id), golden_(golden) {}

  Inference& running() { return *slots_[running_].inference; }
  const Inference& running() const { return *slots_[running_].inference; }
  const char* model_id() const { return uploaded_ ? uploaded_id_.text : flashed_id_; }
  const GoldenVectors& golden() const { return golden_; }
  bool uploaded() const { return uploaded_; }

  /// Where the next upload goes: never the place of the model that runs.
  const ModelSlot& standby() const { return slots_[1 - running_]; }

  /// Bytes that an upload may have; 0: this board takes none.
  size_t upload_capacity() const { return standby().inference == nullptr ? 0 : standby().capacity; }

  /// Lets the model that standby() has loaded take over. `golden` lies in its memory.
  void Swap(const ModelId& id, const GoldenVectors& golden);

 private:
  ModelSlot slots_[2];
  const char* flashed_id_;
  ModelId uploaded_id_;
  GoldenVectors golden_;
  size_t running_ = 0;
  bool uploaded_ = false;
};

}  // namespace hil
