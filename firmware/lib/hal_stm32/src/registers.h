// Registers of the STM32F405 and F446 that this HAL uses.
#pragma once

#include <cstdint>

#include "hal_cortex/core.h"

namespace hil::stm32 {

using cortex::Register;

inline constexpr uint32_t kUsart2Irq = 38;

namespace rcc {
inline volatile uint32_t& Control() { return Register(0x40023800); }
inline volatile uint32_t& Pll() { return Register(0x40023804); }
inline volatile uint32_t& Configuration() { return Register(0x40023808); }
inline volatile uint32_t& Ahb1Enable() { return Register(0x40023830); }
inline volatile uint32_t& Apb1Enable() { return Register(0x40023840); }
inline volatile uint32_t& Status() { return Register(0x40023874); }
inline constexpr uint32_t kInternalReady = 1u << 1, kPllOn = 1u << 24, kPllReady = 1u << 25;
inline constexpr uint32_t kSwitchToPll = 0b10, kSwitchStatusPll = 0b10u << 2;
inline constexpr uint32_t kApb1By4 = 0b101u << 10, kApb2By2 = 0b100u << 13;
inline constexpr uint32_t kGpioA = 1u << 0, kTimer5 = 1u << 3, kUsart2 = 1u << 17, kPower = 1u << 28;
inline constexpr uint32_t kWatchdogReset = 1u << 29, kClearFlags = 1u << 24;
}  // namespace rcc

inline volatile uint32_t& FlashAccess() { return Register(0x40023C00); }
inline constexpr uint32_t kFlashCaches = 0b111u << 8, kFiveWaitStates = 5;

namespace gpio_a {
inline volatile uint32_t& Mode() { return Register(0x40020000); }
inline volatile uint32_t& Speed() { return Register(0x40020008); }
inline volatile uint32_t& Pull() { return Register(0x4002000C); }
inline volatile uint32_t& AlternateLow() { return Register(0x40020020); }
}  // namespace gpio_a

namespace usart2 {
inline volatile uint32_t& Status() { return Register(0x40004400); }
inline volatile uint32_t& Data() { return Register(0x40004404); }
inline volatile uint32_t& BaudRate() { return Register(0x40004408); }
inline volatile uint32_t& Control1() { return Register(0x4000440C); }
inline constexpr uint32_t kOverrun = 1u << 3, kReceived = 1u << 5, kTransmitEmpty = 1u << 7;
inline constexpr uint32_t kReceiveEnable = 1u << 2, kTransmitEnable = 1u << 3, kReceiveInterrupt = 1u << 5, kEnable = 1u << 13;
}  // namespace usart2

namespace timer5 {
inline volatile uint32_t& Control() { return Register(0x40000C00); }
inline volatile uint32_t& Event() { return Register(0x40000C14); }
inline volatile uint32_t& Counter() { return Register(0x40000C24); }
inline volatile uint32_t& Prescaler() { return Register(0x40000C28); }
inline constexpr uint32_t kEnable = 1u << 0, kUpdate = 1u << 0;
}  // namespace timer5

namespace iwdg {
inline volatile uint32_t& Key() { return Register(0x40003000); }
inline volatile uint32_t& Prescaler() { return Register(0x40003004); }
inline volatile uint32_t& Reload() { return Register(0x40003008); }
inline volatile uint32_t& Status() { return Register(0x4000300C); }
inline constexpr uint32_t kStart = 0xCCCC, kUnlock = 0x5555, kFeed = 0xAAAA;
inline constexpr uint32_t kDivideBy32 = 0b011;  // of a 32 kHz oscillator: milliseconds
}  // namespace iwdg

}  // namespace hil::stm32
