#include "hal_cortex/vectors.h"
#include "hal_stm32/hal_stm32.h"
#include "registers.h"

namespace hil::stm32 {

namespace {

constexpr uint32_t kAlternate7 = 7;
constexpr uint32_t kTransmitPin = 2, kReceivePin = 3;

/// Two bits of a register with two bits per pin.
void SetField(volatile uint32_t& reg, uint32_t pin, uint32_t value) {
  reg = (reg & ~(0b11u << (pin * 2))) | (value << (pin * 2));
}

}  // namespace

extern "C" void Usart2Handler() {
  const uint32_t status = usart2::Status();
  if ((status & (usart2::kReceived | usart2::kOverrun)) == 0) return;
  const uint8_t byte = static_cast<uint8_t>(usart2::Data());  // reading it after the status clears both
  if ((status & usart2::kOverrun) != 0) Usart2::Lost();
  if ((status & usart2::kReceived) != 0) Usart2::Put(byte);
}

namespace {

__attribute__((section(".vectors"), used)) constexpr cortex::Vectors kVectors =
    cortex::MakeVectors({{kUsart2Irq, Usart2Handler}});

}  // namespace

void OpenUsart2(uint32_t baud) {
  rcc::Ahb1Enable() |= rcc::kGpioA;
  rcc::Apb1Enable() |= rcc::kUsart2;
  for (const uint32_t pin : {kTransmitPin, kReceivePin}) {
    SetField(gpio_a::Mode(), pin, 0b10);   // alternate function
    SetField(gpio_a::Speed(), pin, 0b10);  // fast
    SetField(gpio_a::Pull(), pin, 0b01);   // up: an open line is idle
    gpio_a::AlternateLow() = (gpio_a::AlternateLow() & ~(0xFu << (pin * 4))) | (kAlternate7 << (pin * 4));
  }
  const uint32_t bus_hz = ClockHz() > 42'000'000 ? ClockHz() / 4 : ClockHz();
  usart2::BaudRate() = (bus_hz + baud / 2) / baud;
  usart2::Control1() = usart2::kEnable | usart2::kTransmitEnable | usart2::kReceiveEnable | usart2::kReceiveInterrupt;
  cortex::InterruptEnable(kUsart2Irq) = 1u << (kUsart2Irq % 32);
  cortex::EnableInterrupts();
}

bool SendUsart2(uint8_t byte) {
  if ((usart2::Status() & usart2::kTransmitEmpty) == 0) return false;
  usart2::Data() = byte;
  return true;
}

}  // namespace hil::stm32
