#include "builder.h"

namespace hil::int8 {

Status BuildWithKernels(const KernelTable& kernels, Keeps keeps, TfliteModel* model, Cursor* cursor, Program* program,
                        Signature* signature, Refusal* refusal) {
  *refusal = {};
  if (keeps == Keeps::kAllIfTheyFit) {
    Cursor counter(nullptr, 0);
    const Status status = Builder(model, &kernels, false, &counter, program, signature, refusal).Build();
    keeps = status == Status::kOk && counter.needed() <= cursor->size() ? Keeps::kAll : Keeps::kNone;
    *refusal = {};
  }
  *program = {};
  return Builder(model, &kernels, keeps == Keeps::kNone, cursor, program, signature, refusal).Build();
}

}  // namespace hil::int8
