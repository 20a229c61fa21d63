// Minimal stand-in for an Arduino core: Serial on an inherited descriptor, a clock, one LED; for a robot also inputs, interrupts
// and the timers of Teensy's and of ST's core.
#pragma once

#include <cstddef>
#include <cstdint>

// Names of the Arduino API. NOLINTBEGIN(readability-identifier-naming)
inline constexpr uint8_t OUTPUT = 1;
inline constexpr uint8_t INPUT_PULLUP = 2;
inline constexpr uint8_t CHANGE = 3;
inline constexpr uint8_t LOW = 0;
inline constexpr uint8_t HIGH = 1;
inline constexpr uint8_t LED_BUILTIN = 13;
// NOLINTEND(readability-identifier-naming)

class Stream {
 public:
  virtual int available() = 0;
  virtual int read() = 0;
  virtual size_t write(const uint8_t* data, size_t size) = 0;

 protected:
  ~Stream() = default;
};

/// Accepts at most seven bytes per call, as some cores do, and none when the reader is slow.
class FdSerial final : public Stream {
 public:
  void Attach(int fd) { fd_ = fd; }
  void begin(unsigned long baud) { baud_ = baud; }
  int available() override;
  int read() override;
  size_t write(const uint8_t* data, size_t size) override;
  int availableForWrite();

 private:
  int fd_ = -1;
  unsigned long baud_ = 0;
};

extern FdSerial Serial;  // NOLINT(readability-identifier-naming)

unsigned long micros();
unsigned long millis();
void yield();
void pinMode(uint8_t pin, uint8_t mode);
void digitalWrite(uint8_t pin, uint8_t value);
void analogWrite(uint8_t pin, int value);
int digitalRead(uint8_t pin);
void attachInterrupt(uint8_t number, void (*function)(), uint8_t mode);
constexpr uint8_t digitalPinToInterrupt(uint8_t pin) { return pin; }
void noInterrupts();
void interrupts();
void delay(unsigned long ms);

class IntervalTimer {
 public:
  bool begin(void (*function)(), unsigned long period_us);
};
void NVIC_SystemReset();

enum { TIM6, HERTZ_FORMAT };  // NOLINT(readability-identifier-naming): STM32duino's names
class HardwareTimer {
 public:
  explicit HardwareTimer(int timer);
  void setOverflow(uint32_t rate, int format);
  void attachInterrupt(void (*function)());
  void resume();
};

void setup();
void loop();
