// Runs Int8Engine over a file of inputs, for comparison with TensorFlow Lite Micro.
//
//   check MODEL INPUTS OUTPUTS [least]
//
// With "least", the engine gets the smallest arena, in which it keeps no tensors.
// INPUTS holds int8 [n][n_obs]; OUTPUTS gets, for each of the n rows, the int8 tensor of every operator that has one, in
// execution order, and then the output. stdout gets one line: the engine's status and message, and the sizes. Exit status: 0
// complete, 1 the engine refused the model, 2 usage or file error.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine_int8/int8_engine.h"

namespace {

bool ReadFile(const char* path, std::vector<uint8_t>* bytes) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return false;
  uint8_t chunk[4096];
  for (size_t count; (count = std::fread(chunk, 1, sizeof chunk, file)) > 0;) bytes->insert(bytes->end(), chunk, chunk + count);
  std::fclose(file);
  return true;
}

bool RunRow(hil::Int8Engine* engine, const int8_t* input, std::FILE* out) {
  std::vector<int8_t> output(engine->info().n_act);
  bool ok = engine->Infer(input, output.data()) == hil::Status::kOk;
  for (uint16_t op = 0; op < engine->info().n_ops; ++op) {
    hil::TensorView tensor;
    if (engine->Tensor(op, &tensor) == hil::Status::kOk) {
      ok = std::fwrite(tensor.bytes(), 1, tensor.size(), out) == tensor.size() && ok;
    }
  }
  return std::fwrite(output.data(), 1, output.size(), out) == output.size() && ok;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<uint8_t> model;
  std::vector<uint8_t> inputs;
  const bool least = argc == 5 && std::strcmp(argv[4], "least") == 0;
  if ((argc != 4 && !least) || !ReadFile(argv[1], &model) || !ReadFile(argv[2], &inputs)) {
    std::fprintf(stderr, "usage: check MODEL INPUTS OUTPUTS\n");
    return 2;
  }
  const hil::ByteSpan span = {model.data(), model.size()};
  size_t needed = 0;
  hil::Int8Engine engine(&hil::int8::kAllKernels);
  const hil::Status status = engine.RequiredArena(span, &needed, !least);
  // Of exactly the required size, so that the sanitizer detects an overrun; at least 1 byte, for a valid pointer.
  std::vector<uint8_t> arena(needed == 0 ? 1 : needed);
  const hil::Status init = engine.Init(span, {arena.data(), needed});
  if (init != status) {
    std::printf("RequiredArena() says %d and Init() %d\n", static_cast<int>(status), static_cast<int>(init));
    return 1;
  }
  std::printf("status %d detail %u arena %u message %s\n", static_cast<int>(init), static_cast<unsigned>(engine.detail()),
              static_cast<unsigned>(needed), engine.message());
  if (init != hil::Status::kOk) return 1;
  std::FILE* out = std::fopen(argv[3], "wb");
  bool ok = out != nullptr;
  const size_t n_obs = engine.info().n_obs;
  for (size_t row = 0; ok && (row + 1) * n_obs <= inputs.size(); ++row) {
    ok = RunRow(&engine, reinterpret_cast<const int8_t*>(inputs.data()) + row * n_obs, out);
  }
  if (out == nullptr) return 2;
  return std::fclose(out) == 0 && ok ? 0 : 2;
}
