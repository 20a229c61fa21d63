// Registers of the MPS2 and MPS3 machines.
#pragma once

#include <cstdint>

#include "hal_cortex/core.h"

namespace hil::mps {

using cortex::Register;

#if defined(HIL_MACHINE_MPS2)
inline constexpr uint32_t kUart = 0x40004000;
inline constexpr uint32_t kFpgaIo = 0x40028000;
inline constexpr uint32_t kUartReceiveIrq = 0;
inline constexpr uint32_t kUartTransmitIrq = 1;
inline constexpr uint32_t kClockHz = 25'000'000;
inline constexpr uint32_t kFpgaClockHz = 25'000'000;
#elif defined(HIL_MACHINE_MPS3_AN547)
inline constexpr uint32_t kUart = 0x49303000;
inline constexpr uint32_t kFpgaIo = 0x49302000;
inline constexpr uint32_t kUartReceiveIrq = 33;
inline constexpr uint32_t kUartTransmitIrq = 34;
inline constexpr uint32_t kClockHz = 32'000'000;
inline constexpr uint32_t kFpgaClockHz = 20'000'000;
#else
#error "no machine chosen: the board's JSON file defines HIL_MACHINE_..."
#endif

namespace uart {
inline volatile uint32_t& Data() { return Register(kUart + 0x00); }
inline volatile uint32_t& State() { return Register(kUart + 0x04); }
inline volatile uint32_t& Control() { return Register(kUart + 0x08); }
inline volatile uint32_t& InterruptStatus() { return Register(kUart + 0x0C); }  // write 1 to clear
inline volatile uint32_t& BaudDivider() { return Register(kUart + 0x10); }
inline constexpr uint32_t kTransmitFull = 1u << 0, kReceiveFull = 1u << 1, kReceiveOverrun = 1u << 3;
inline constexpr uint32_t kTransmitEnable = 1u << 0, kReceiveEnable = 1u << 1, kTransmitInterrupt = 1u << 2,
                          kReceiveInterrupt = 1u << 3;
inline constexpr uint32_t kTransmitPending = 1u << 0, kReceivePending = 1u << 1;
}  // namespace uart

namespace fpga {
inline volatile uint32_t& Counter100Hz() { return Register(kFpgaIo + 0x14); }
inline volatile uint32_t& Counter() { return Register(kFpgaIo + 0x18); }
inline volatile uint32_t& Prescale() { return Register(kFpgaIo + 0x1C); }
}  // namespace fpga

}  // namespace hil::mps
