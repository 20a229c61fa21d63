#include "server/models.h"

#include <cstring>

namespace hil {

Outcome Models::TakeOver(const ModelImage& image, const char** message) {
  const size_t other = 1 - running_;
  ModelImage own = image;
  std::memcpy(ids_[other].text, image.id, sizeof(ids_[other].text));
  own.id = ids_[other].text;
  const Outcome loaded = policies_[other].Load(own, places_[other].arena);
  *message = policies_[other].message();
  if (!loaded.ok()) return loaded;
  policies_[other].ContinueCount(running().times().count);
  running_ = other;
  uploaded_ = true;
  return loaded;
}

}  // namespace hil
