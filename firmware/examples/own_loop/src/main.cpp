// A control loop of your own, on your robot, without a host: sensors in, policy, motors out.
//
// Copy model.h from the bundle that `hil export` wrote to include/; replace robot.h by your own.

#include "engine_int8/flashed_kernels.h"
#include "policy/flashed_model.h"
#include "robot.h"

int main() {
  alignas(16) static uint8_t arena[8 * 1024];
  static hil::Int8Engine engine(hil::FlashedKernels());
  static hil::Policy policy(&engine);
  if (!policy.Load(hil::FlashedModel(), {arena, sizeof arena}).ok()) return 1;
  float observation[hil::kMaxObs];
  while (robot::Sense(observation, policy.info().n_obs)) {
    const bool ok = policy.Run({observation, policy.info().n_obs}).ok();
    if (ok) robot::Drive(policy.action(), policy.info().n_act);
    if (!ok) robot::Stop();
  }
}
