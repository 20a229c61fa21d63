// Runs Int8Engine on an emulated board over models and inputs that QEMU loads into its memory, for comparison with TensorFlow
// Lite Micro. At kCasesAddress lies u32 [count] and, for each case:
//
//   u32 model bytes | u32 rows | u32 bytes to skip, so that the model is not aligned | model | int8 [rows][n_obs]    each padded
//   to a multiple of 16 bytes, as is the count
//
// The UART gets, for each case: u32 status | u32 arena bytes | for each row the int8 tensors of all operators that have one, and
// the output.
#include <cstring>

#include "engine_int8/int8_engine.h"
#include "hal_cortex/system.h"
#include "hal_mps/hal_mps.h"

namespace {

constexpr uint32_t kBaud = 921'600;
#if defined(HIL_MACHINE_MPS2)
constexpr uintptr_t kCasesAddress = 0x20200000;
#else
constexpr uintptr_t kCasesAddress = 0x60000000;
#endif

alignas(16) uint8_t arena[128 * 1024];
int8_t output[32 * 1024];
hil::mps::CmsdkUart uart;
hil::Int8Engine engine(&hil::int8::kAllKernels);

void Send(const void* data, size_t size) {
  while (!uart.Write(static_cast<const uint8_t*>(data), size)) {
  }
}

void SendNumber(uint32_t number) { Send(&number, sizeof number); }

void RunRow(const int8_t* input) {
  engine.Infer(input, output);
  hil::TensorView tensor;
  for (uint16_t op = 0; op < engine.info().n_ops; ++op) {
    if (engine.Tensor(op, &tensor) == hil::Status::kOk) Send(tensor.bytes(), tensor.size());
  }
  Send(output, engine.info().n_act);
}

const uint8_t* RunCase(const uint8_t* at) {
  uint32_t sizes[3];
  std::memcpy(sizes, at, sizeof sizes);
  const uint8_t* const model = at + 16 + sizes[2];
  const uint8_t* const inputs = at + 16 + ((sizes[2] + sizes[0] + 15u) & ~15u);
  size_t needed = 0;
  engine.RequiredArena({model, sizes[0]}, &needed);
  hil::Status status = engine.Init({model, sizes[0]}, {arena, sizeof arena});
  if (status == hil::Status::kOk && engine.info().n_act > sizeof output) status = hil::Status::kArenaTooSmall;
  SendNumber(static_cast<uint32_t>(status));
  SendNumber(static_cast<uint32_t>(needed));
  if (status != hil::Status::kOk) return inputs;
  for (uint32_t row = 0; row < sizes[1]; ++row) RunRow(reinterpret_cast<const int8_t*>(inputs) + row * engine.info().n_obs);
  return inputs + ((sizes[1] * engine.info().n_obs + 15u) & ~15u);
}

}  // namespace

int main() {
  uart.Open(kBaud);
  const uint8_t* at = reinterpret_cast<const uint8_t*>(kCasesAddress);
  uint32_t count;
  std::memcpy(&count, at, sizeof count);
  at += 16;
  for (uint32_t i = 0; i < count; ++i) at = RunCase(at);
  for (;;) uart.Wait(UINT32_MAX);
}
