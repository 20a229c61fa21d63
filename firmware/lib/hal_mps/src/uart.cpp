#include <initializer_list>

#include "hal_mps/hal_mps.h"
#include "registers.h"

namespace hil::mps {

namespace {

constexpr uint32_t kWriteTimeoutMs = 100;
constexpr uint32_t kNapMs = 1;
constexpr uint32_t kMinBaudDivider = 16;  // the least that the UART takes

constexpr uint32_t kNotReceiving = uart::kTransmitEnable | uart::kReceiveEnable;
constexpr uint32_t kReceiving = kNotReceiving | uart::kReceiveInterrupt;

/// One writer, the interrupt, and one reader. Indices only grow; what they differ by is the number of bytes.
struct Ring {
  uint8_t bytes[kRxBuffer];
  volatile uint32_t written = 0;
  volatile uint32_t read = 0;
  volatile bool stalled = false;  // full: the interrupt is off, and the sender waits
  volatile uint32_t overruns = 0;
};

Ring ring;

void TakeByte() {
  if ((uart::State() & uart::kReceiveOverrun) != 0) {
    uart::State() = uart::kReceiveOverrun;
    ring.overruns = ring.overruns + 1;
  }
  ring.bytes[ring.written % kRxBuffer] = static_cast<uint8_t>(uart::Data());
  ring.written = ring.written + 1;
}

void StartSysTick(uint32_t ms) {
  const uint64_t ticks = uint64_t{ms} * (kClockHz / 1000);
  core::SysTickReload() = ticks > core::kSysTickMax ? core::kSysTickMax : static_cast<uint32_t>(ticks);
  core::SysTickValue() = 0;
  core::SysTickControl() = core::kSysTickRun;
}

void StopSysTick() {
  core::SysTickControl() = 0;
  core::InterruptControl() = core::kClearPendingSysTick;
}

}  // namespace

extern "C" void UartReceiveHandler() {
  uart::InterruptStatus() = uart::kReceivePending;
  while ((uart::State() & uart::kReceiveFull) != 0) {
    if (ring.written - ring.read == kRxBuffer) {
      uart::Control() = kNotReceiving;
      ring.stalled = true;
      return;
    }
    TakeByte();
  }
}

extern "C" void UartTransmitHandler() { uart::InterruptStatus() = uart::kTransmitPending; }

extern "C" void SysTickHandler() { core::SysTickControl() = 0; }

void CmsdkUart::Open(uint32_t baud) {
  const uint32_t divider = kClockHz / baud;
  uart::BaudDivider() = divider < kMinBaudDivider ? kMinBaudDivider : divider;
  for (const uint32_t irq : {kUartReceiveIrq, kUartTransmitIrq}) {
    core::InterruptEnable(irq) = 1u << (irq % 32);
  }
  uart::Control() = kReceiving;
  // QEMU's main loop notices that the UART receives only when it is touched again; without this the first request may wait for
  // the better part of a second.
  [[maybe_unused]] const uint32_t nothing_yet = uart::Data();
  EnableInterrupts();
}

bool CmsdkUart::Wait(uint32_t timeout_ms) {
  FpgaClock clock;
  const uint64_t start_us = clock.NowUs();
  for (;;) {
    // Between the look at the ring and the sleep no interrupt may slip by: it stays pending and ends the sleep.
    DisableInterrupts();
    const bool arrived = ring.written != ring.read;
    const uint64_t waited_ms = (clock.NowUs() - start_us) / 1000;
    const bool expired = timeout_ms != UINT32_MAX && waited_ms >= timeout_ms;
    if (arrived || expired) {
      EnableInterrupts();
      return arrived;
    }
    if (timeout_ms != UINT32_MAX) {
      StartSysTick(timeout_ms - static_cast<uint32_t>(waited_ms));
    }
    WaitForInterrupt();
    StopSysTick();
    EnableInterrupts();
  }
}

size_t CmsdkUart::Read(uint8_t* buffer, size_t capacity) {
  size_t count = 0;
  while (count < capacity && ring.read != ring.written) {
    buffer[count++] = ring.bytes[ring.read % kRxBuffer];
    ring.read = ring.read + 1;
  }
  if (ring.stalled && count > 0) {
    ring.stalled = false;
    uart::Control() = kReceiving;
    DisableInterrupts();
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
  if (congested_) {
    return false;
  }
  FpgaClock clock;
  const uint64_t start_us = clock.NowUs();
  // Asleep, not polling: QEMU's main loop, which has to empty the transmitter, hardly gets a turn beside a busy processor. And in
  // short naps: it does not notice by itself that the transmitter waits, but every timer that expires makes it look.
  uart::Control() = kReceiving | uart::kTransmitInterrupt;
  bool room = false;
  bool expired = false;
  while (!room && !expired) {
    DisableInterrupts();
    room = (uart::State() & uart::kTransmitFull) == 0;
    expired = clock.NowUs() - start_us >= kWriteTimeoutMs * 1000;
    if (!room && !expired) {
      StartSysTick(kNapMs);
      WaitForInterrupt();
      StopSysTick();
    }
    EnableInterrupts();
  }
  uart::Control() = ring.stalled ? kNotReceiving : kReceiving;
  return room;
}

uint32_t CmsdkUart::Overruns() const { return ring.overruns; }

}  // namespace hil::mps
