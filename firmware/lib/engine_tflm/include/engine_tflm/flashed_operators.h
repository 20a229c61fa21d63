// The operators of TensorFlow Lite Micro that the model in the image needs: `model.h` names them.
#pragma once

#include "engine_tflm/operators.h"
#include "model.h"

namespace hil {

/// FULLY_CONNECTED, RELU and TANH, which uploads may have, and what else the model has.
inline const tflite::MicroOpResolver* FlashedOperators() {
  return TflmOperators<9, 19, 28
#ifdef HIL_MODEL_OPERATORS
                       ,
                       HIL_MODEL_OPERATORS
#endif
                       >();
}

}  // namespace hil
