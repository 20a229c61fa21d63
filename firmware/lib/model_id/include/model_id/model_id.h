// The id of a model: a hash of its bytes, so that it identifies the model that runs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil {

inline constexpr size_t kModelIdSize = 12;

/// First 12 hex digits of the SHA-256 of a model, NUL-terminated. Equals balance_hil.bundle.model_id.
struct ModelId {
  char text[kModelIdSize + 1] = {};
};

/// Computes an id in steps.
class ModelHash {
 public:
  static constexpr size_t kBlock = 64;  ///< bytes

  /// Adds `size` bytes, a multiple of kBlock.
  void Add(const uint8_t* data, size_t size);

  /// Adds the rest, `size` bytes, and returns the id. To be called once.
  ModelId Finish(const uint8_t* rest, size_t size);

 private:
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint64_t added_ = 0;
};

/// Computes the id in one step; an empty model has the id "".
inline ModelId ComputeModelId(const uint8_t* model, size_t size) {
  return size == 0 ? ModelId{} : ModelHash{}.Finish(model, size);
}

}  // namespace hil
