// Registers of the RP2040 that this HAL uses.
#pragma once

#include <cstdint>

#include "hal_cortex/core.h"

namespace hil::rp2040 {

using cortex::Register;

inline constexpr uint32_t kUart0Irq = 20;
inline constexpr uint32_t kAtomicSet = 0x2000, kAtomicClear = 0x3000;  // aliases of a register

namespace resets {
inline volatile uint32_t& Clear() { return Register(0x4000C000 + kAtomicClear); }
inline volatile uint32_t& Done() { return Register(0x4000C008); }
inline constexpr uint32_t kIoBank0 = 1u << 5, kPadsBank0 = 1u << 8, kPllSys = 1u << 12, kTimer = 1u << 21, kUart0 = 1u << 22;
}  // namespace resets

namespace xosc {
inline volatile uint32_t& Control() { return Register(0x40024000); }
inline volatile uint32_t& Status() { return Register(0x40024004); }
inline volatile uint32_t& Startup() { return Register(0x4002400C); }
inline constexpr uint32_t kEnable = 0xFABAA0, kStable = 1u << 31, kStartupDelay = 47;  // times 256 cycles of 12 MHz: 1 ms
}  // namespace xosc

namespace clocks {
inline volatile uint32_t& RefControl() { return Register(0x40008030); }
inline volatile uint32_t& RefSelected() { return Register(0x40008038); }
inline volatile uint32_t& SysControl() { return Register(0x4000803C); }
inline volatile uint32_t& SysSelected() { return Register(0x40008044); }
inline volatile uint32_t& PeriControl() { return Register(0x40008048); }
inline constexpr uint32_t kRefCrystal = 2, kSysAux = 1, kPeriEnable = 1u << 11;  // auxiliary sources 0: PLL, and clk_sys
}  // namespace clocks

namespace pll {
inline volatile uint32_t& Control() { return Register(0x40028000); }
inline volatile uint32_t& PowerClear() { return Register(0x40028004 + kAtomicClear); }
inline volatile uint32_t& Feedback() { return Register(0x40028008); }
inline volatile uint32_t& PostDividers() { return Register(0x4002800C); }
inline constexpr uint32_t kLocked = 1u << 31, kDown = 1u << 0, kVcoDown = 1u << 5, kPostDividersDown = 1u << 3;
}  // namespace pll

namespace watchdog {
inline volatile uint32_t& Control() { return Register(0x40058000); }
inline volatile uint32_t& ControlSet() { return Register(0x40058000 + kAtomicSet); }
inline volatile uint32_t& ControlClear() { return Register(0x40058000 + kAtomicClear); }
inline volatile uint32_t& Load() { return Register(0x40058004); }
inline volatile uint32_t& Reason() { return Register(0x40058008); }
inline volatile uint32_t& BootMagic() { return Register(0x4005801C); }  // SCRATCH4: read by the boot ROM
inline volatile uint32_t& Tick() { return Register(0x4005802C); }
inline constexpr uint32_t kTrigger = 1u << 31, kEnable = 1u << 30, kByTimer = 1u << 0, kTickEnable = 1u << 9;
}  // namespace watchdog

/// What the watchdog resets: everything except the two oscillators.
inline volatile uint32_t& PsmWatchdogSelect() { return Register(0x40010008); }
inline constexpr uint32_t kAllButOscillators = 0x0001FFFC;

namespace timer {
inline volatile uint32_t& High() { return Register(0x40054024); }
inline volatile uint32_t& Low() { return Register(0x40054028); }
}  // namespace timer

inline volatile uint32_t& Function(uint32_t pin) { return Register(0x40014004 + 8 * pin); }
inline volatile uint32_t& Pad(uint32_t pin) { return Register(0x4001C004 + 4 * pin); }
inline constexpr uint32_t kFunctionUart = 2, kPadInputPullUp = 0x5A;

namespace uart0 {
inline volatile uint32_t& Data() { return Register(0x40034000); }
inline volatile uint32_t& Flags() { return Register(0x40034018); }
inline volatile uint32_t& BaudInteger() { return Register(0x40034024); }
inline volatile uint32_t& BaudFraction() { return Register(0x40034028); }
inline volatile uint32_t& LineControl() { return Register(0x4003402C); }
inline volatile uint32_t& Control() { return Register(0x40034030); }
inline volatile uint32_t& FifoLevels() { return Register(0x40034034); }
inline volatile uint32_t& InterruptMask() { return Register(0x40034038); }
inline constexpr uint32_t kReceiveEmpty = 1u << 4, kTransmitFull = 1u << 5, kOverrun = 1u << 11;
inline constexpr uint32_t kEightBits = 0b11u << 5, kFifos = 1u << 4;
inline constexpr uint32_t kEnable = 1u << 0, kTransmit = 1u << 8, kReceive = 1u << 9;
inline constexpr uint32_t kReceiveInterrupt = 1u << 4, kReceiveTimeoutInterrupt = 1u << 6;
}  // namespace uart0

}  // namespace hil::rp2040
