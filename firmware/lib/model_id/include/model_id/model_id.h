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

/// Computes the id; an empty model has the id "".
ModelId ComputeModelId(const uint8_t* model, size_t size);

}  // namespace hil
