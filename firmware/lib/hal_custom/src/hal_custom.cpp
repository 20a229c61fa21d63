#include "hal_custom/hal_custom.h"

#include "hal_cortex/core.h"
#include "hal_cortex/system.h"
#include "hal_cortex/vectors.h"

namespace hil::custom {

extern "C" void PortReceiveHandler() {
  for (uint8_t byte = 0; Receive(&byte);) Port::Put(byte);
}

namespace {

__attribute__((section(".vectors"), used)) constexpr cortex::Vectors kVectors =
    cortex::MakeVectors({{HIL_RX_IRQ, PortReceiveHandler}});

}  // namespace

void OpenPort(uint32_t baud) {
  Start(baud);
  cortex::StartTicks(HIL_CLOCK_HZ);
  cortex::InterruptEnable(HIL_RX_IRQ) = 1u << (HIL_RX_IRQ % 32);
  cortex::EnableInterrupts();
}

}  // namespace hil::custom

// The five functions know no boot loader.
void hil::cortex::StartBootloader() {}

void hil::cortex::ResetChip() {
  __asm__ volatile("dsb" ::: "memory");
  ResetControl() = kResetRequest;
  for (;;) {
  }
}
