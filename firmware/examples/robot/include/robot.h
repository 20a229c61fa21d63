// A robot, as the loop in main.cpp sees it: three functions, and two of the board that it runs on.
//
// simulated.cpp has them for a plant in memory, mpu6050.cpp for a balance robot; build one of the two.
#pragma once

#include <cstddef>
#include <cstdint>

#include "signals.h"

namespace robot {

/// Waits for the next control period and measures. Returns false if a sensor does not answer or the robot lies on the floor.
bool ReadObservation(hil_signals::Observation* observation);

/// Drives the motors until the next call.
void Apply(const hil_signals::Action& action);

/// Motors off. Interrupts call it, too.
void SafeState();

/// Time since the start, in microseconds; wraps.
uint32_t NowUs();

/// Sends to the host what can be sent without waiting, and returns the number of bytes.
size_t Send(const char* data, size_t size);

/// In main.cpp: to be called every millisecond by a timer interrupt. It watches the loop.
void OnMillisecond();

}  // namespace robot
