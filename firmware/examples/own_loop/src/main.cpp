// A control loop of your own, on your robot, without a host: sensors in, policy, motors out.
//
// model.h lies in the bundle that `hil export` wrote: copy it to include/. robot.h is yours.

#include "engine_int8/int8_engine.h"
#include "policy/flashed_model.h"
#include "robot.h"

int main() {
  alignas(16) static uint8_t arena[8 * 1024];
  static hil::Int8Engine engine;
  static hil::Policy policy(&engine);
  if (!policy.Load(hil::FlashedModel(), {arena, sizeof arena}).ok()) return 1;
  float observation[hil::kMaxObs];
  while (robot::Sense(observation, policy.info().n_obs)) {
    const bool good = policy.Run({observation, policy.info().n_obs}).ok();
    good ? robot::Drive(policy.action(), policy.info().n_act) : robot::Stop();
  }
}
