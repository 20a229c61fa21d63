"""A step response in simulation: what one records on a bench, with the robot on a stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance.identify.log import Run
from balance_hil.envs.balance.motor_stand import MotorStandEnv
from balance_hil.envs.balance.options import RobotOptions

# (duration s, commanded speed rad/s, drive). Steps that saturate the servo give torque over inertia, coasting gives damping over
# inertia, and speeds that are held give gain over damping; small steps show the gain as well.
PATTERN = (
    (0.1, 0.0, True),
    (0.3, 20.0, True),
    (0.4, -40.0, True),
    (0.5, 75.0, True),
    (0.6, 75.0, False),
    (0.6, -75.0, True),
    (0.6, -75.0, False),
    (0.2, 0.0, True),
)
SMALL_STEP_RAD_S, SMALL_STEP_S, SMALL_STEPS = 1.0, 0.01, 60
DEFAULT_LOADS_KG_M2 = (0.0, 1e-4)  # bare wheels, then for example a steel disc of 60 mm in diameter and 10 mm thick


def record(options: RobotOptions | None = None, loads_kg_m2: Sequence[float] = DEFAULT_LOADS_KG_M2, seed: int = 0) -> list[Run]:
    """Runs the pattern once per load on ``balance/MotorStand-v0``. The right wheel turns the other way.

    Raises:
        ConfigError: the options name something that a robot on a stand lacks.
        UsageError: a load out of range.
    """
    env = MotorStandEnv(options=options)
    return [_record(env, load, np.random.SeedSequence((seed, index))) for index, load in enumerate(loads_kg_m2)]


def _record(env: MotorStandEnv, load: float, seed: np.random.SeedSequence) -> Run:
    command, drive = _pattern(env.control_period_s)
    _, info = env.reset(seed=int(seed.generate_state(1)[0]), options={"load_kg_m2": load})
    scale = env.config.command_scale_rad_s
    speeds = np.empty((len(command), 2))
    for k, (speed, on) in enumerate(zip(command, drive, strict=True)):
        speeds[k] = info["measured_rad_s"]
        *_, info = env.step(np.array([speed / scale, -speed / scale, 1.0 if on else -1.0]))
    t_s = np.arange(len(command)) * env.control_period_s
    return Run(t_s, np.stack([command, -command], axis=1), drive, load, speeds)


def _pattern(period_s: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    small = [(SMALL_STEP_S, SMALL_STEP_RAD_S * (1 if k % 2 else -1), True) for k in range(SMALL_STEPS)]
    rows = [(round(duration / period_s), speed, on) for duration, speed, on in (*PATTERN, *small)]
    command = np.concatenate([np.full(n, speed) for n, speed, _ in rows])
    return command, np.concatenate([np.full(n, on) for n, _, on in rows])
