// From reset to main(): memory, floating point, constructors, vectors.
#include <cstdint>
#include <cstring>

#include "hal_cortex/core.h"
#include "hal_cortex/system.h"
#include "hal_cortex/vectors.h"

extern "C" {
extern uint32_t hil_data_load, hil_data_start, hil_data_end;
extern uint32_t hil_bss_start, hil_bss_end;
extern uint32_t hil_stack_limit;
extern void (*hil_constructors_start[])();
extern void (*hil_constructors_end[])();

int main();
}

namespace {

size_t BytesBetween(const uint32_t* from, const uint32_t* to) {
  return reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from);
}

/// Paints the stack below the current frame, for StackHighWater().
void PaintStack() {
  const uint32_t* const frame = static_cast<uint32_t*>(__builtin_frame_address(0)) - 32;
  for (volatile uint32_t* word = &hil_stack_limit; word < frame; ++word) *word = hil::cortex::kStackPaint;
}

}  // namespace

extern "C" void ResetHandler() {
#ifdef __ARM_FP
  hil::cortex::CoprocessorAccess() |= 0xFu << 20;  // floating point and MVE
  __asm__ volatile("dsb\n isb" ::: "memory");
#endif
  PaintStack();
  std::memcpy(&hil_data_start, &hil_data_load, BytesBetween(&hil_data_start, &hil_data_end));
  std::memset(&hil_bss_start, 0, BytesBetween(&hil_bss_start, &hil_bss_end));
  for (void (**constructor)() = hil_constructors_start; constructor != hil_constructors_end; ++constructor) (*constructor)();
  main();
  FaultHandler();  // main() never returns
}

/// A fault or an unexpected interrupt: restart. The host receives READY with the cause "unknown".
extern "C" void FaultHandler() { hil::cortex::ResetChip(); }
