// Fuzz target: arbitrary bytes as a model. The engine refuses them, or runs them within its arena.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine_int8/int8_engine.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const hil::ByteSpan model = {data, size};
  size_t needed = 0;
  hil::Int8Engine engine(&hil::int8::kAllKernels);
  const hil::Status status = engine.RequiredArena(model, &needed);
  if (status != hil::Status::kOk || needed > (1u << 22)) return 0;
  // On the heap and of exactly the required size, so that the address sanitizer detects an overrun.
  std::vector<uint8_t> arena(needed);
  if (engine.Init(model, {arena.data(), needed - 1}) != hil::Status::kArenaTooSmall || engine.detail() != needed ||
      engine.Init(model, {arena.data(), needed}) != hil::Status::kOk) {
    std::abort();  // RequiredArena() was wrong
  }
  std::vector<int8_t> input(engine.info().n_obs);
  std::vector<int8_t> output(engine.info().n_act);
  for (const int8_t value : {int8_t{-128}, int8_t{0}, int8_t{127}}) {
    std::memset(input.data(), value, input.size());
    engine.Infer(input.data(), output.data());
    hil::TensorView tensor;
    for (uint16_t op = 0; op < engine.info().n_ops; ++op) engine.Tensor(op, &tensor);
  }
  return 0;
}
