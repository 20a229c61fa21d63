#include "hal_native/hal_native.h"

#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

extern "C" {
// Defined and named by the linker.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming)
extern char __executable_start, __data_start, edata, end;
}

namespace hil::native {
namespace {

constexpr size_t kMarkedStack = 64 * 1024;
constexpr uint8_t kMark = 0xA5;

uintptr_t marked_from = 0;
uintptr_t marked_to = 0;

/// Paints the stack below the caller's frame: its own, therefore not inlined.
__attribute__((noinline, no_sanitize("address"))) void MarkStack() {
  volatile uint8_t frame[kMarkedStack];
  for (volatile uint8_t& byte : frame) byte = kMark;
  // Intentional: functions called later use this memory.
  marked_from = reinterpret_cast<uintptr_t>(&frame[0]);  // cppcheck-suppress danglingLifetime
  marked_to = marked_from + sizeof frame;                // cppcheck-suppress danglingLifetime
}

uint32_t BytesBetween(const char* from, const char* to) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
}

constexpr int kWriteTimeoutMs = 100;
constexpr char kResetCauseVariable[] = "BALANCE_HIL_RESET_CAUSE";
constexpr char kRequested[] = "requested";

// A handled signal does not end the wait.
int PollOnce(int fd, short events, int timeout_ms, short* seen) {
  pollfd entry{fd, events, 0};
  int ready = 0;
  do {
    ready = poll(&entry, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  *seen = entry.revents;
  return ready;
}

}  // namespace

bool FdUart::Open() {
  const int flags = fcntl(fd_, F_GETFL);
  if (flags < 0 || fcntl(fd_, F_SETFL, flags | O_NONBLOCK) < 0) return false;
  termios settings{};
  if (tcgetattr(fd_, &settings) != 0) return true;  // a socket has no terminal settings
  // A new pseudo-terminal echoes: without this the board would read its own READY.
  cfmakeraw(&settings);
  return tcsetattr(fd_, TCSANOW, &settings) == 0;
}

FdUart::Wake FdUart::Wait(uint32_t timeout_ms) {
  const int timeout = timeout_ms > static_cast<uint32_t>(INT_MAX) ? -1 : static_cast<int>(timeout_ms);
  short seen = 0;
  const int ready = PollOnce(fd_, POLLIN, timeout, &seen);
  if (ready == 0) return Wake::kTimeout;
  if (ready < 0 || (seen & (POLLIN | POLLHUP)) == 0) return Wake::kClosed;
  return Wake::kData;
}

size_t FdUart::Read(uint8_t* buffer, size_t capacity, bool* closed) {
  const ssize_t count = read(fd_, buffer, capacity);
  if (count > 0) return static_cast<size_t>(count);
  // EIO: the last process that had the pseudo-terminal open has closed it.
  *closed = count == 0 || (errno != EAGAIN && errno != EINTR);
  return 0;
}

bool FdUart::Write(const uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t count = write(fd_, data, size);
    if (count > 0) {
      data += count;
      size -= static_cast<size_t>(count);
      congested_ = false;
      continue;
    }
    if (errno == EINTR) continue;
    short seen = 0;
    if (errno != EAGAIN || congested_ || PollOnce(fd_, POLLOUT, kWriteTimeoutMs, &seen) <= 0 || (seen & POLLOUT) == 0) {
      congested_ = true;
      return false;
    }
  }
  return true;
}

uint64_t MonotonicClock::SinceBootUs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1'000;
}

ProcessSystem::ProcessSystem(char** arguments) : arguments_(arguments) { MarkStack(); }

__attribute__((no_sanitize("address"))) uint32_t ProcessSystem::StackHighWater() const {
  uintptr_t lowest = marked_from;
  while (lowest < marked_to && *reinterpret_cast<const volatile uint8_t*>(lowest) == kMark) ++lowest;
  return static_cast<uint32_t>(marked_to - lowest);
}

uint32_t ImageBytes() { return BytesBetween(&__executable_start, &edata); }

uint32_t StaticRamBytes() { return BytesBetween(&__data_start, &end); }

void ProcessSystem::Reboot() {
  setenv(kResetCauseVariable, kRequested, 1);
  execv("/proc/self/exe", arguments_);
}

hal::ResetCause ProcessSystem::Cause() {
  const char* cause = getenv(kResetCauseVariable);
  return cause != nullptr && std::strcmp(cause, kRequested) == 0 ? hal::ResetCause::kRequested : hal::ResetCause::kPowerOn;
}

}  // namespace hil::native
