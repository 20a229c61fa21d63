// Registers and instructions of every Cortex-M.
#pragma once

#include <cstdint>

namespace hil::cortex {

inline volatile uint32_t& Register(uint32_t address) { return *reinterpret_cast<volatile uint32_t*>(address); }

inline volatile uint32_t& SysTickControl() { return Register(0xE000E010); }
inline volatile uint32_t& SysTickReload() { return Register(0xE000E014); }
inline volatile uint32_t& SysTickValue() { return Register(0xE000E018); }
inline volatile uint32_t& InterruptEnable(uint32_t irq) { return Register(0xE000E100 + irq / 32 * 4); }
inline volatile uint32_t& InterruptControl() { return Register(0xE000ED04); }
inline volatile uint32_t& VectorTable() { return Register(0xE000ED08); }
inline volatile uint32_t& ResetControl() { return Register(0xE000ED0C); }
inline volatile uint32_t& CoprocessorAccess() { return Register(0xE000ED88); }
inline constexpr uint32_t kSysTickRun = 0b111;  // enabled, with interrupt, from the processor clock
inline constexpr uint32_t kSysTickInterrupt = 0b010;
inline constexpr uint32_t kSysTickMax = 0xFFFFFF;
inline constexpr uint32_t kSysTickWrapped = 1u << 16;  // of its control register; reading clears it
inline constexpr uint32_t kSysTickPending = 1u << 26;
inline constexpr uint32_t kClearPendingSysTick = 1u << 25;
inline constexpr uint32_t kResetRequest = 0x05FA0004;

inline void DisableInterrupts() { __asm__ volatile("cpsid i" ::: "memory"); }
inline void EnableInterrupts() { __asm__ volatile("cpsie i" ::: "memory"); }
/// Sleeps until an interrupt is pending, masked or not.
inline void WaitForInterrupt() { __asm__ volatile("dsb\n wfi" ::: "memory"); }

/// Sleeps until an interrupt has been handled. To be called with interrupts disabled: one that arrives after the caller's check
/// stays pending and ends the sleep.
inline void SleepOnce() {
  WaitForInterrupt();
  EnableInterrupts();
  DisableInterrupts();
}

/// Fill pattern of the unused stack.
inline constexpr uint32_t kStackPaint = 0xA5A5A5A5;

}  // namespace hil::cortex
