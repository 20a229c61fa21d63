"""The robot near upright as a small linear model, for classical control design."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance import config_for
from balance_hil.envs.balance.env import load_model
from balance_hil.envs.balance.task import PITCH_RATE, WHEEL_LEFT, WHEEL_RIGHT

Float64Array = NDArray[np.float64]

STATES = ("pitch_rad", "pitch_rate_rad_s", "wheel_speed_rad_s", "wheel_speed_difference_rad_s")
INPUTS = ("action_left", "action_right")
_SETTLE_STEPS = 500  # of physics: until the wheels have sunk into the ground as far as their contacts let them
_PERTURBATION = 1e-6
_SLOWEST_FAST_MODE = 0.9  # magnitude of an eigenvalue per control step; the robot's own modes lie at 0.96 to 1.04
_SINKING = (2, 3)  # height and roll: the position coordinates beside pitch that gravity and the contacts act on


@dataclass(frozen=True)
class LinearModel:
    """``x[k+1] = a x[k] + b u[k]`` over one control step; ``x`` is STATES, ``u`` is INPUTS (-1..1).

    The speed is the mean of both wheels, the difference right minus left. Any speed is an equilibrium, so that targets
    are reached by shifting ``x``.
    """

    a: Float64Array  # float64 [4, 4]
    b: Float64Array  # float64 [4, 2]


def linearize(environment: str) -> LinearModel:
    """Linearizes the environment's MuJoCo model around the robot that stands upright.

    ``mjd_transitionFD`` gives the transition of one physics step; a control step is several of those with the command held,
    and the command is the sum of the actions. Of the 15 modes of that system 11 have died down within a few control
    steps: contacts, rolling constraint, wheel servo. They are cut off (modal truncation), and what is left is written in
    coordinates that are measured.

    Raises:
        UnknownEnvironmentError: no such environment.
    """
    config = config_for(environment)
    model = load_model(config, looks=False)
    full_a, full_b, sensors = _control_step(*_physics_step(model), model.nv, config.substeps_per_step)
    full_b = full_b * config.wheel_speed_step_rad_s
    values, vectors = np.linalg.eig(full_a)
    slow = np.abs(values) > _SLOWEST_FAST_MODE
    assert np.count_nonzero(slow) == len(STATES), f"{np.count_nonzero(slow)} slow modes"
    to_state = sensors @ vectors[:, slow]
    modes = np.linalg.inv(vectors)[slow]
    a = to_state @ np.diag(values[slow]) @ np.linalg.inv(to_state)
    return LinearModel(np.real(a), np.real(to_state @ modes @ full_b))


def _physics_step(model: mujoco.MjModel) -> tuple[Float64Array, Float64Array]:
    """Transition of position and velocity errors, float64 [2 nv, 2 nv], and of the commands, float64 [2 nv, 2]."""
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, nstep=_SETTLE_STEPS)  # exactly upright it stays upright: all is symmetric
    a = np.zeros((2 * model.nv + model.na, 2 * model.nv + model.na))
    b = np.zeros((2 * model.nv + model.na, model.nu))
    mujoco.mjd_transitionFD(model, data, _PERTURBATION, True, a, b, None, None)
    return a, b


def _control_step(a: Float64Array, b: Float64Array, nv: int, substeps: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    """The system over one control step with the commands as states, and the rows that measure STATES in it.

    Coordinates that act on nothing (place, heading, wheel angles) are left out. The last two states are the commands; the
    input is their increment, which the physics sees in the same step.
    """
    kept = [*_SINKING, PITCH_RATE, *range(nv, 2 * nv)]
    a, b = a[np.ix_(kept, kept)], b[kept]
    n, n_inputs = b.shape
    held_a, held_b = np.eye(n), np.zeros_like(b)
    for _ in range(substeps):
        held_a, held_b = a @ held_a, a @ held_b + b
    full_a = np.block([[held_a, held_b], [np.zeros((n_inputs, n)), np.eye(n_inputs)]])
    full_b = np.vstack([held_b, np.eye(n_inputs)])
    sensors = np.zeros((len(STATES), n + n_inputs))
    left, right = kept.index(nv + WHEEL_LEFT), kept.index(nv + WHEEL_RIGHT)
    sensors[0, kept.index(PITCH_RATE)] = 1.0  # the free joint's angles and angular velocities lie in the same order
    sensors[1, kept.index(nv + PITCH_RATE)] = 1.0
    sensors[2, [left, right]] = 0.5
    sensors[3, [left, right]] = -1.0, 1.0
    return full_a, full_b, sensors
