#include "engine_int8/program.h"

#include "builder.h"

namespace hil::int8 {

namespace {

/// Of this file alone, so that -Os inlines what is called once.
struct WithoutKernels {
  static constexpr bool kKernels = false;
};

}  // namespace

bool SetReason(const char* reason, Refusal* refusal) {
  refusal->reason = reason;
  return false;
}

Status BuildWithoutKernels(const KernelTable&, Keeps, TfliteModel* model, Cursor* cursor, Program* program, Signature* signature,
                           Refusal* refusal) {
  *refusal = {};
  return BuilderOf<WithoutKernels>(model, nullptr, false, cursor, program, signature, refusal).Build();
}

}  // namespace hil::int8
