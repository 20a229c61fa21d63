// From reset to main(): memory, floating point, constructors, vectors.
#include <cstdint>
#include <cstring>

#include "registers.h"

extern "C" {
extern uint32_t hil_data_load, hil_data_start, hil_data_end;
extern uint32_t hil_bss_start, hil_bss_end;
extern uint32_t hil_stack_limit, hil_stack_top;
extern void (*hil_constructors_start[])();
extern void (*hil_constructors_end[])();

int main();
void UartReceiveHandler();
void UartTransmitHandler();
void SysTickHandler();

[[noreturn]] void ResetHandler();
[[noreturn]] void FaultHandler();
}

namespace {

using hil::mps::core::CoprocessorAccess;
using hil::mps::core::kResetRequest;
using hil::mps::core::ResetControl;

size_t BytesBetween(const uint32_t* from, const uint32_t* to) {
  return reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from);
}

/// Everything below the running frame, so that what was used can be told from what was not.
void PaintStack() {
  const uint32_t* const frame = static_cast<uint32_t*>(__builtin_frame_address(0)) - 32;
  for (volatile uint32_t* word = &hil_stack_limit; word < frame; ++word) {
    *word = hil::mps::kStackPaint;
  }
}

}  // namespace

extern "C" void ResetHandler() {
  CoprocessorAccess() |= 0xFu << 20;  // floating point and MVE; without effect on a Cortex-M3
  __asm__ volatile("dsb\n isb" ::: "memory");
  PaintStack();
  std::memcpy(&hil_data_start, &hil_data_load, BytesBetween(&hil_data_start, &hil_data_end));
  std::memset(&hil_bss_start, 0, BytesBetween(&hil_bss_start, &hil_bss_end));
  for (void (**constructor)() = hil_constructors_start; constructor != hil_constructors_end; ++constructor) {
    (*constructor)();
  }
  main();
  FaultHandler();  // main() never returns
}

/// A fault or an unexpected interrupt: restart. The host receives READY with the cause "unknown".
extern "C" void FaultHandler() {
  __asm__ volatile("dsb" ::: "memory");
  ResetControl() = kResetRequest;
  for (;;) {
  }
}

namespace {

using Handler = void (*)();
constexpr uint32_t kInterrupts = 48;

struct Vectors {
  const uint32_t* stack_top;
  Handler core[15];
  Handler interrupts[kInterrupts];
};

constexpr Vectors MakeVectors() {
  Vectors vectors{&hil_stack_top, {}, {}};
  for (Handler& handler : vectors.core) handler = FaultHandler;
  for (Handler& handler : vectors.interrupts) handler = FaultHandler;
  vectors.core[0] = ResetHandler;
  vectors.core[14] = SysTickHandler;
  vectors.interrupts[hil::mps::kUartReceiveIrq] = UartReceiveHandler;
  vectors.interrupts[hil::mps::kUartTransmitIrq] = UartTransmitHandler;
  return vectors;
}

__attribute__((section(".vectors"), used)) constexpr Vectors kVectors = MakeVectors();

}  // namespace
