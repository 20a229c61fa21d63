// A register access of an emulated device costs QEMU about as much as a thousand instructions. This file minimizes them: two per
// received byte, two per sent byte, one per sleep.
#include <initializer_list>

#include "hal_cortex/ring.h"
#include "hal_cortex/system.h"
#include "hal_cortex/vectors.h"
#include "hal_mps/hal_mps.h"
#include "registers.h"

namespace hil::mps {

using namespace cortex;  // NOLINT(google-build-using-namespace): its registers

namespace {

constexpr uint32_t kMinBaudDivider = 16;  // minimum of the UART
constexpr uint32_t kMaxAlarmMs = 500;     // SysTick has 24 bits
constexpr uint32_t kTicksPerMs = kClockHz / 1000;
constexpr uint32_t kGatherMs = 100;  // longest delay of bytes without a delimiter
constexpr uint32_t kWriteTimeoutMs = 100;
constexpr uint32_t kNapMs = 1;

constexpr uint32_t kNotReceiving = uart::kTransmitEnable | uart::kReceiveEnable;
constexpr uint32_t kReceiving = kNotReceiving | uart::kReceiveInterrupt;

cortex::Ring<kRxBuffer> ring;
volatile bool stalled = false;  // the ring is full: the interrupt is off, and the sender waits
bool alarm_is_set = false;
volatile bool alarm_went_off = false;

void SetAlarm(uint32_t ms) {
  alarm_is_set = true;
  alarm_went_off = false;
  SysTickReload() = ms * kTicksPerMs;
  SysTickValue() = 0;
  SysTickControl() = kSysTickRun;
}

void StopAlarm() {
  SysTickControl() = 0;
  InterruptControl() = kClearPendingSysTick;
  alarm_is_set = false;
}

/// Ensures that an alarm goes off within `ms`. An earlier one is kept, because setting one wakes QEMU's main loop: with a
/// watchdog of 100 ms and a request every 5 ms, 20 times as often as needed.
void WakeWithin(uint32_t ms) {
  const uint32_t limit_ms = ms < kMaxAlarmMs ? ms : kMaxAlarmMs;
  if (!alarm_is_set || alarm_went_off || SysTickValue() > limit_ms * kTicksPerMs) SetAlarm(limit_ms);
}

}  // namespace

extern "C" void UartReceiveHandler() {
  uart::InterruptStatus() = uart::kReceivePending;  // before the byte is read: the next one may follow immediately
  if (ring.Full()) {
    uart::Control() = kNotReceiving;
    stalled = true;
    return;
  }
  ring.Put(static_cast<uint8_t>(uart::Data()));
}

extern "C" void UartTransmitHandler() { uart::InterruptStatus() = uart::kTransmitPending; }

extern "C" void SysTickHandler() {
  SysTickControl() = 0;
  alarm_went_off = true;
}

namespace {

__attribute__((section(".vectors"), used)) constexpr Vectors kVectors =
    MakeVectors({{kUartReceiveIrq, UartReceiveHandler}, {kUartTransmitIrq, UartTransmitHandler}});

}  // namespace

void CmsdkUart::Open(uint32_t baud) {
  const uint32_t divider = kClockHz / baud;
  uart::BaudDivider() = divider < kMinBaudDivider ? kMinBaudDivider : divider;
  for (const uint32_t irq : {kUartReceiveIrq, kUartTransmitIrq}) InterruptEnable(irq) = 1u << (irq % 32);
  uart::Control() = kReceiving;
  // QEMU notices the enabled receiver only at the next register access; without this one the first request may wait for most of a
  // second.
  [[maybe_unused]] const uint32_t nothing_yet = uart::Data();
  EnableInterrupts();
}

void CmsdkUart::Wait(uint32_t timeout_ms) {
  if (timeout_ms == 0) return;
  bool gathering = false;
  DisableInterrupts();
  if (timeout_ms != UINT32_MAX) WakeWithin(timeout_ms);
  for (;;) {
    if (ring.HasMessage() || alarm_went_off) break;
    if (ring.Size() != 0 && !gathering) {
      gathering = true;
      WakeWithin(kGatherMs);
    }
    SleepOnce();
  }
  if (alarm_went_off) {
    StopAlarm();
    alarm_went_off = false;
  }
  EnableInterrupts();
}

size_t CmsdkUart::Read(uint8_t* buffer, size_t capacity) {
  const size_t count = ring.Take(buffer, capacity);
  if (stalled && count > 0) {
    DisableInterrupts();
    stalled = false;
    uart::Control() = kReceiving;
    UartReceiveHandler();  // the byte that did not fit raises no second interrupt
    EnableInterrupts();
  }
  return count;
}

bool CmsdkUart::Write(const uint8_t* data, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    if ((uart::State() & uart::kTransmitFull) != 0 && !WaitForRoom()) {
      congested_ = true;
      return false;
    }
    uart::Data() = data[i];
  }
  congested_ = false;
  return true;
}

bool CmsdkUart::WaitForRoom() {
  if (congested_) return false;
  // Sleeps instead of polling: QEMU's main loop, which empties the transmitter, hardly runs beside a busy processor. In short
  // naps: it checks the transmitter only when a timer expires.
  bool room = false;
  DisableInterrupts();
  uart::Control() = (stalled ? kNotReceiving : kReceiving) | uart::kTransmitInterrupt;
  for (uint32_t naps = 0; !room && naps < kWriteTimeoutMs / kNapMs; naps += alarm_went_off ? 1u : 0u) {
    SetAlarm(kNapMs);
    SleepOnce();
    room = (uart::State() & uart::kTransmitFull) == 0;
  }
  StopAlarm();
  uart::Control() = stalled ? kNotReceiving : kReceiving;
  EnableInterrupts();
  return room;
}

uint32_t CmsdkUart::Overruns() const {
  if ((uart::State() & uart::kReceiveOverrun) != 0) {
    uart::State() = uart::kReceiveOverrun;
    ++overruns_;
  }
  return overruns_;
}

}  // namespace hil::mps

void hil::cortex::ResetChip() {
  __asm__ volatile("dsb" ::: "memory");
  ResetControl() = kResetRequest;
  for (;;) {
  }
}

void hil::cortex::StartBootloader() {}
