// Where a library that gives up ends: TFLM's assertions call abort(), and newlib's would want files and a heap.

extern "C" void FaultHandler();

extern "C" [[noreturn]] void abort() {
  FaultHandler();
  for (;;) {
  }
}

// The name is newlib's. NOLINTNEXTLINE(bugprone-reserved-identifier)
extern "C" [[noreturn]] void __assert_func(const char*, int, const char*, const char*) { abort(); }
