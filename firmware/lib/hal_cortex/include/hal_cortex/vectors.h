// The vector table. Each chip's HAL defines one: `VECTORS constexpr hil::cortex::Vectors kVectors =
// hil::cortex::MakeVectors({...})`.
#pragma once

#include <cstdint>
#include <initializer_list>

extern "C" {
extern uint32_t hil_stack_top;
[[noreturn]] void ResetHandler();
[[noreturn]] void FaultHandler();
void SysTickHandler();
}

namespace hil::cortex {

using Handler = void (*)();
inline constexpr uint32_t kInterrupts = 82;

struct Vectors {
  const uint32_t* stack_top;
  Handler core[15];
  Handler interrupts[kInterrupts];
};

struct Interrupt {
  uint32_t irq;
  Handler handler;
};

/// An interrupt without a handler restarts the board.
constexpr Vectors MakeVectors(std::initializer_list<Interrupt> handled) {
  Vectors vectors{&hil_stack_top, {}, {}};
  for (Handler& handler : vectors.core) handler = FaultHandler;
  for (Handler& handler : vectors.interrupts) handler = FaultHandler;
  vectors.core[0] = ResetHandler;
  vectors.core[14] = SysTickHandler;
  for (const Interrupt& one : handled) vectors.interrupts[one.irq] = one.handler;
  return vectors;
}

}  // namespace hil::cortex
