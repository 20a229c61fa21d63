#include "hal_cortex/vectors.h"
#include "hal_rp2040/hal_rp2040.h"
#include "registers.h"

namespace hil::rp2040 {

namespace {

constexpr uint32_t kTransmitPin = 0, kReceivePin = 1;

}  // namespace

extern "C" void Uart0Handler() {
  while ((uart0::Flags() & uart0::kReceiveEmpty) == 0) {
    const uint32_t data = uart0::Data();
    if ((data & uart0::kOverrun) != 0) Uart0::Lost();
    Uart0::Put(static_cast<uint8_t>(data));
  }
}

namespace {

__attribute__((section(".vectors"), used)) constexpr cortex::Vectors kVectors = cortex::MakeVectors({{kUart0Irq, Uart0Handler}});

}  // namespace

void OpenUart0(uint32_t baud) {
  constexpr uint32_t kNeeded = resets::kUart0 | resets::kIoBank0 | resets::kPadsBank0;
  resets::Clear() = kNeeded;
  for (uint32_t tries = 0; (resets::Done() & kNeeded) != kNeeded && tries < 100'000; ++tries) {
  }
  for (const uint32_t pin : {kTransmitPin, kReceivePin}) {
    Pad(pin) = kPadInputPullUp;  // an open line is idle
    Function(pin) = kFunctionUart;
  }
  const uint32_t divider = (ClockHz() * 4 + baud / 2) / baud;  // in 64ths of 16 clocks
  uart0::BaudInteger() = divider / 64;
  uart0::BaudFraction() = divider % 64;
  uart0::LineControl() = uart0::kEightBits | uart0::kFifos;  // also latches the divider
  uart0::FifoLevels() = 0;                                   // interrupts when the receive FIFO is an eighth full
  uart0::Control() = uart0::kEnable | uart0::kTransmit | uart0::kReceive;
  uart0::InterruptMask() = uart0::kReceiveInterrupt | uart0::kReceiveTimeoutInterrupt;
  cortex::InterruptEnable(kUart0Irq) = 1u << kUart0Irq;
  cortex::EnableInterrupts();
}

bool SendUart0(uint8_t byte) {
  if ((uart0::Flags() & uart0::kTransmitFull) != 0) return false;
  uart0::Data() = byte;
  return true;
}

}  // namespace hil::rp2040
