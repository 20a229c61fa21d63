#include "server/models.h"

namespace hil {

void Models::Swap(const ModelId& id, const GoldenVectors& golden) {
  const uint32_t inferences = running().times().count;
  running_ = 1 - running_;
  running().ContinueCount(inferences);
  uploaded_id_ = id;
  golden_ = golden;
  uploaded_ = true;
}

}  // namespace hil
