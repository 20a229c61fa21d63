// The headers of TensorFlow Lite Micro, as system headers: they give warnings under -Wconversion and -Wshadow.
#pragma once
#pragma GCC system_header

#ifndef TF_LITE_STATIC_MEMORY
#error "TF_LITE_STATIC_MEMORY must be defined for the whole image: without it TFLM's structs differ between library and firmware"
#endif

#include "tensorflow/lite/micro/kernels/fully_connected.h"
#include "tensorflow/lite/micro/memory_planner/linear_memory_planner.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "tensorflow/lite/schema/schema_utils.h"
