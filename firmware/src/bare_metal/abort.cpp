// Replaces newlib's abort(), which needs files and a heap; TFLM's assertions call it.

extern "C" void FaultHandler();

extern "C" [[noreturn]] void abort() {
  FaultHandler();
  for (;;) {
  }
}

// The name is newlib's. NOLINTNEXTLINE(bugprone-reserved-identifier)
extern "C" [[noreturn]] void __assert_func(const char*, int, const char*, const char*) { abort(); }
