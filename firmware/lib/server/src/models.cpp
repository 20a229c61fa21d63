#include "server/models.h"

#include <cstring>

namespace hil {

Outcome Models::LoadStandby(const ModelImage& image) {
  const size_t other = 1 - running_;
  ModelImage own = image;
  std::memcpy(ids_[other].text, image.id, sizeof(ids_[other].text));
  own.id = ids_[other].text;
  return policies_[other].Load(own, places_[other].arena, false);
}

void Models::Activate() {
  standby_policy().ContinueCount(running().times().count);
  running_ = 1 - running_;
  uploaded_ = true;
}

}  // namespace hil
