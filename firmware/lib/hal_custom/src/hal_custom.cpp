#include "hal_custom/hal_custom.h"

#include "hal_cortex/core.h"
#include "hal_cortex/ring.h"
#include "hal_cortex/system.h"
#include "hal_cortex/ticks.h"
#include "hal_cortex/vectors.h"

namespace hil::custom {

namespace {

constexpr uint32_t kWriteTimeoutMs = 100;

cortex::Ring<kRxBuffer> ring;
volatile uint32_t lost = 0;

}  // namespace

extern "C" void PortReceiveHandler() {
  for (uint8_t byte = 0; Receive(&byte);) {
    if (ring.Full()) {
      lost = lost + 1;
    } else {
      ring.Put(byte);
    }
  }
}

namespace {

__attribute__((section(".vectors"), used)) constexpr cortex::Vectors kVectors =
    cortex::MakeVectors({{HIL_RX_IRQ, PortReceiveHandler}});

}  // namespace

void Port::Open(uint32_t baud) {
  Start(baud);
  cortex::StartTicks(HIL_CLOCK_HZ);
  cortex::InterruptEnable(HIL_RX_IRQ) = 1u << (HIL_RX_IRQ % 32);
  cortex::EnableInterrupts();
}

void Port::Wait(uint32_t timeout_ms) { cortex::AwaitMessage(ring, timeout_ms, FeedWatchdog); }

size_t Port::Read(uint8_t* buffer, size_t capacity) { return ring.Take(buffer, capacity); }

bool Port::Write(const uint8_t* data, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    for (const uint32_t started = cortex::Ticks(); !Send(data[i]);) {
      if (cortex::Ticks() - started >= kWriteTimeoutMs) return false;
    }
  }
  return true;
}

uint32_t Port::Overruns() const { return lost; }

}  // namespace hil::custom

// The five functions know no boot loader.
void hil::cortex::StartBootloader() {}

void hil::cortex::ResetChip() {
  __asm__ volatile("dsb" ::: "memory");
  ResetControl() = kResetRequest;
  for (;;) {
  }
}
