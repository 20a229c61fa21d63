// Runs a sketch on a pseudo-terminal.
//
//   program FD [START_US]     FD: the port; START_US: initial value of micros(). LED and pins are printed to stderr.

#include "Arduino.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace {

constexpr size_t kWriteLimit = 7;
constexpr int kIdleMs = 1;
constexpr int kResetStatus = 42;

uint32_t start_us = 0;
int port = -1;

uint32_t MonotonicUs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint32_t>(now.tv_sec * 1'000'000 + now.tv_nsec / 1000);
}

/// Sleeps until bytes arrive, so that the sketch's loop does not occupy a whole core. Exits when the port closes.
void Idle() {
  pollfd entry{port, POLLIN, 0};
  poll(&entry, 1, kIdleMs);
  if ((entry.revents & (POLLHUP | POLLERR)) != 0 && (entry.revents & POLLIN) == 0) std::exit(0);
}

}  // namespace

FdSerial Serial;

int FdSerial::available() {
  int count = 0;
  return ioctl(fd_, FIONREAD, &count) == 0 ? count : 0;
}

int FdSerial::read() {
  uint8_t byte = 0;
  return ::read(fd_, &byte, 1) == 1 ? byte : -1;
}

size_t FdSerial::write(const uint8_t* data, size_t size) {
  const ssize_t count = ::write(fd_, data, size < kWriteLimit ? size : kWriteLimit);
  return count > 0 ? static_cast<size_t>(count) : 0;
}

// 32 bits wide, as on a microcontroller.
unsigned long micros() { return start_us + MonotonicUs(); }
unsigned long millis() { return static_cast<uint32_t>(MonotonicUs() / 1000); }
void yield() { poll(nullptr, 0, kIdleMs); }

void pinMode(uint8_t pin, uint8_t mode) { std::fprintf(stderr, "pin %d mode %d\n", pin, mode); }
void digitalWrite(uint8_t pin, uint8_t value) { std::fprintf(stderr, "pin %d is %d\n", pin, value); }

void NVIC_SystemReset() { std::exit(kResetStatus); }

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  port = std::atoi(argv[1]);
  if (argc > 2) start_us = static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)) - MonotonicUs();
  fcntl(port, F_SETFL, fcntl(port, F_GETFL) | O_NONBLOCK);
  Serial.Attach(port);
  setup();
  for (;;) {
    loop();
    Idle();
  }
}
