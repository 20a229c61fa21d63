// The model that is compiled in: `model.h` of a bundle, which `hil export` writes, as a ModelImage.
#pragma once

#include "model.h"
#include "policy/policy.h"

namespace hil {

#ifdef HIL_MODEL_MAX_OBS
static_assert(HIL_MODEL_MAX_OBS <= kMaxObs && HIL_MODEL_MAX_ACT <= kMaxAct,
              "build all files with -DHIL_MAX_OBS and -DHIL_MAX_ACT as large as model.h says");
#endif

#ifdef HIL_MODEL_ELEMENT_TYPE
static_assert(kWide, "model.h is not of int8: build all files with -DHIL_WIDE=1");
#else
#define HIL_MODEL_ELEMENT_TYPE 0
#endif

inline ModelImage FlashedModel() {
  ModelImage image;
  image.model = {hil_model::kModel, hil_model::kModelSize};
  image.id = hil_model::kModelId;
#ifdef HIL_MODEL_NORMALIZED
  const uint32_t count = sizeof hil_model::kNormalizationMean / sizeof hil_model::kNormalizationMean[0];
  image.normalization = {
      {hil_model::kNormalizationMean, count}, {hil_model::kNormalizationInverseStd, count}, hil_model::kNormalizationClip};
#endif
  image.type = static_cast<ElementType>(HIL_MODEL_ELEMENT_TYPE);
  image.golden = {reinterpret_cast<const int8_t*>(hil_model::kSelfTestInput),
                  reinterpret_cast<const int8_t*>(hil_model::kSelfTestOutput), hil_model::kSelfTestCount};
  return image;
}

}  // namespace hil
