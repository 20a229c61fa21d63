// The host watchdog: detects missing observations.
#pragma once

#include <cstdint>

namespace hil {

/// Starts in the safe state, leaves it with the first observation, and returns to it when observations stop.
class Watchdog {
 public:
  explicit Watchdog(uint32_t timeout_ms) : timeout_ms_(timeout_ms) {}

  /// 0 disables it; the time counts from the last observation.
  void SetTimeout(uint32_t timeout_ms) { timeout_ms_ = timeout_ms; }

  /// Records that an observation was applied at `now_us`.
  void Feed(uint64_t now_us) {
    last_us_ = now_us;
    safe_ = false;
  }

  /// Enters the safe state without counting a trip. The next observation ends it.
  void Hold() { safe_ = true; }

  /// True once per trip: the caller puts the actuators in the safe state.
  bool Trips(uint64_t now_us) {
    if (safe_ || timeout_ms_ == 0 || now_us < DeadlineUs()) return false;
    safe_ = true;
    ++trips_;
    return true;
  }

  /// Earliest time at which Trips() becomes true; UINT64_MAX: not before the next observation.
  uint64_t NextTripUs() const { return safe_ || timeout_ms_ == 0 ? UINT64_MAX : DeadlineUs(); }

  bool safe() const { return safe_; }
  uint32_t trips() const { return trips_; }
  uint32_t timeout_ms() const { return timeout_ms_; }

 private:
  uint64_t DeadlineUs() const { return last_us_ + uint64_t{1000} * timeout_ms_; }

  uint32_t timeout_ms_;
  uint32_t trips_ = 0;
  uint64_t last_us_ = 0;
  bool safe_ = true;
};

}  // namespace hil
