// Counts the instructions of one inference on an emulated board, for `hil bench engine`.
//
// Run with `-icount shift=0`: then an instruction takes a nanosecond of virtual time, and SysTick counts them. They are not
// cycles. Sends lines of "name number" to the UART, the last one "done 0".

#include <cstring>

#include "board/built_config.h"
#include "board_engine/board_engine.h"
#include "engine_size.h"
#include "hal_cortex/system.h"
#include "hal_mps/hal_mps.h"
#include "model.h"

namespace {

constexpr uint32_t kMostRounds = 256;
constexpr uint32_t kEnoughInstructions = 1 << 24;

hil::mps::CmsdkUart uart;

void Send(const char* text) { uart.Write(reinterpret_cast<const uint8_t*>(text), std::strlen(text)); }

void Report(const char* name, uint32_t number) {
  char digits[12];
  char* first = digits + sizeof digits - 1;
  *first = '\0';
  *--first = '\n';
  do {
    *--first = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  Send(name);
  Send(" ");
  Send(first);
}

uint32_t rounds = kMostRounds;
bool overflowed = false;

/// Instructions of one call of `action`, on average over all rounds.
template <typename Action>
uint32_t Count(const Action& action) {
  const uint32_t count = rounds;
  const hil::mps::InstructionCounter counter;
  for (uint32_t i = 0; i < count; ++i) action();
  // There is a round at least. NOLINTNEXTLINE(clang-analyzer-core.DivideZero)
  const auto elapsed = static_cast<uint32_t>((counter.Elapsed() + count / 2) / count);
  overflowed = overflowed || counter.Overflowed();
  return elapsed;
}

void Measure(hil::Engine* engine) {
  int8_t output[sizeof hil_model::kSelfTestOutput[0]];  // bytes of raw values, as the engine takes them
  const auto* const input = reinterpret_cast<const int8_t*>(hil_model::kSelfTestInput[0]);
  rounds = 1;
  const uint32_t once = Count([&] { engine->Infer(input, output); });
  rounds = once > kEnoughInstructions / kMostRounds ? kEnoughInstructions / once + 1 : kMostRounds;
  const uint32_t nothing = Count([] { __asm__ volatile(""); });
  Report("inference_instructions", Count([&] { engine->Infer(input, output); }) - nothing);
  for (uint16_t op = 0; op < engine->info().n_ops && engine->RunOperator(op) == hil::Status::kOk; ++op) {
    Report("operator_instructions", Count([&] { engine->RunOperator(op); }) - nothing);
  }
  Report("mismatches", std::memcmp(output, hil_model::kSelfTestOutput[0], sizeof output) == 0 ? 0 : 1);
}

}  // namespace

int main() {
  uart.Open(HIL_BAUD);
  const hil::Place place = hil::FirstPlace();
  hil::Engine* const engine = place.engine;
  const hil::mps::InstructionCounter loading;
  const hil::Status status = engine->Init({hil_model::kModel, hil_model::kModelSize}, place.arena);
  Report("load_instructions", static_cast<uint32_t>(loading.Elapsed()));
  Report("status", static_cast<uint32_t>(status));
  if (status == hil::Status::kOk) Measure(engine);
  Report("overflowed", overflowed ? 1 : 0);
  Report("arena_bytes", engine->info().arena_used);
  Report("object_bytes", static_cast<uint32_t>(hil::EngineObjectBytes()));
  Report("stack_bytes", hil::cortex::System().StackHighWater());
  Report("done", 0);
  for (;;) uart.Wait(UINT32_MAX);
}
