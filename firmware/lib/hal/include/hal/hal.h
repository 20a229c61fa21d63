// The few things that the server needs of a machine. One implementation per family of boards.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil::hal {

/// Why the processor started. Values as in READY.
enum class ResetCause : uint8_t { kPowerOn = 0, kRequested = 1, kWatchdog = 2, kUnknown = 255 };

/// The byte stream to the host: a UART, USB CDC, or a pseudo-terminal.
class Uart {
 public:
  /// Sends all of `data`, in one piece where the transport allows it. Returns false when it was given up because nobody reads;
  /// part of it may have been sent then.
  virtual bool Write(const uint8_t* data, size_t size) = 0;

  /// How often received bytes were lost since boot.
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

/// What the actions go to: motor drivers on a robot, an LED on a bare board, nothing where the plant is simulated.
class Actuator {
 public:
  /// Takes a new action, float32 [count], in the scaled units of the policy.
  virtual void Apply(const float* action, size_t count) = 0;

  /// Zero action: called once when the board goes to the safe state.
  virtual void EnterSafeState() = 0;

 protected:
  ~Actuator() = default;
};

/// Where the plant is simulated by the host: there is nothing to drive.
class NoActuator final : public Actuator {
 public:
  void Apply(const float*, size_t) override {}
  void EnterSafeState() override {}
};

/// The processor.
class System {
 public:
  /// Restarts the board. Does not come back on a microcontroller. Where it does, the restart failed and the board goes on as it
  /// is.
  virtual void Reboot() = 0;

  /// Most stack used so far, in bytes; 0 where nobody can tell.
  virtual uint32_t StackHighWater() const { return 0; }

 protected:
  ~System() = default;
};

}  // namespace hil::hal
