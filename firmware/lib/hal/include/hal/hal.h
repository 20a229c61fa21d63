// Hardware abstraction of the server. One implementation per family of boards.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil::hal {

/// Why the processor started. Values as in READY.
enum class ResetCause : uint8_t { kPowerOn = 0, kRequested = 1, kWatchdog = 2, kUnknown = 255 };

/// The byte stream to the host: a UART, USB CDC, or a pseudo-terminal.
class Uart {
 public:
  /// Sends all of `data`, in one piece where the transport allows it. Returns false when the data was dropped because the host
  /// does not read; part of it may have been sent.
  virtual bool Write(const uint8_t* data, size_t size) = 0;

  /// Receive overruns since boot.
  virtual uint32_t Overruns() const = 0;

 protected:
  ~Uart() = default;
};

/// Time since boot.
class Clock {
 public:
  virtual uint64_t NowUs() const = 0;

 protected:
  ~Clock() = default;
};

/// Receives the actions: motor drivers on a robot, an LED on a bare board, nothing if the plant is simulated.
class Actuator {
 public:
  /// Applies a new action, float32 [count], in the scaled units of the policy.
  virtual void Apply(const float* action, size_t count) = 0;

  /// Zero action: called once when the board enters the safe state.
  virtual void EnterSafeState() = 0;

 protected:
  ~Actuator() = default;
};

/// For a plant simulated by the host: no actuators.
class NoActuator final : public Actuator {
 public:
  void Apply(const float*, size_t) override {}
  void EnterSafeState() override {}
};

/// The processor.
class System {
 public:
  /// Restarts the board. Does not return on a microcontroller. If it returns, the restart failed and the board keeps running.
  virtual void Reboot() = 0;

  /// Leaves the firmware for the chip's boot loader and does not return. If it returns, there is none.
  virtual void EnterBootloader() {}

  /// Peak stack usage in bytes; 0 if unknown.
  virtual uint32_t StackHighWater() const { return 0; }

 protected:
  ~System() = default;
};

}  // namespace hil::hal
