// Heap of the fault gallery, which never releases memory. No other image has a heap.

#include <cstddef>
#include <cstdint>
#include <new>

extern "C" [[noreturn]] void FaultHandler();

namespace {

#if defined(HIL_MACHINE_MPS2)
constexpr size_t kHeapBytes = 1024 * 1024;
#else
constexpr size_t kHeapBytes = 96 * 1024;
#endif
constexpr size_t kAlignment = 16;

alignas(kAlignment) __attribute__((section(".noinit"))) uint8_t heap[kHeapBytes];
size_t used = 0;

}  // namespace

void* operator new(size_t size) {
  const size_t padded = (size + kAlignment - 1) & ~(kAlignment - 1);
  if (padded > kHeapBytes - used) FaultHandler();
  used += padded;
  return heap + used - padded;
}

void operator delete(void*) noexcept {}
void operator delete(void*, size_t) noexcept {}

// Called by std::vector instead of throwing; libstdc++'s versions link the exception machinery.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl58-cpp)
namespace std {
void __throw_length_error(const char*) { FaultHandler(); }
void __throw_bad_alloc() { FaultHandler(); }
void __throw_bad_array_new_length() { FaultHandler(); }
}  // namespace std
// NOLINTEND(bugprone-reserved-identifier,cert-dcl58-cpp)
