"""A linear-quadratic regulator as a policy.

The gain comes from the linearized simulator and the discrete algebraic Riccati equation, in milliseconds and without an
episode. The speed error is limited before it is fed back, so that a far target gives a bounded lean. All of that is written
as two small dense layers, so that it is exported, run and compared as learned policies are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.options import NOMINAL
from balance_hil.envs.balance.plant import load_model
from balance_hil.envs.balance.task import PITCH_RATE, WHEEL_LEFT, WHEEL_RIGHT
from balance_hil.settings import Settings, number

Float64Array = NDArray[np.float64]
Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]  # weights [outputs, inputs], biases [outputs]

STATES = ("pitch_rad", "pitch_rate_rad_s", "wheel_speed_rad_s", "wheel_speed_difference_rad_s")
INPUTS = ("action_left", "action_right")
_SETTLE_STEPS = 500  # of physics: until the wheels have sunk into the ground as far as their contacts let them
_PERTURBATION = 1e-6
_SLOWEST_FAST_MODE = 0.9  # magnitude of an eigenvalue per control step; the robot's own modes lie at 0.96 to 1.04
_SINKING = (2, 3)  # height and roll: the position coordinates beside pitch that gravity and the contacts act on
_MAX_DOUBLINGS = 60  # of the Riccati equation: each doubles the horizon that is looked ahead
_TOLERANCE = 1e-12
_SMALLEST = 1e-9  # deviations are more than nothing


@dataclass(frozen=True, kw_only=True)
class LqrConfig(Settings):
    """By Bryson's rule each of the first five is the deviation that costs as much as the others at theirs."""

    pitch_rad: float = number(_SMALLEST)
    pitch_rate_rad_s: float = number(_SMALLEST)
    speed_error_rad_s: float = number(_SMALLEST)
    wheel_speed_difference_error_rad_s: float = number(_SMALLEST)
    action: float = number(_SMALLEST)  # of -1..1
    speed_error_limit_rad_s: float = number(_SMALLEST)  # a larger speed error counts as this


def feedback(design: LqrConfig, config: BalanceConfig) -> Float64Array:
    """The gain ``k``, float64 [2, 4]: ``action = -k (state - target)``, state as in STATES."""
    model = linearize(config)
    limits = (design.pitch_rad, design.pitch_rate_rad_s, design.speed_error_rad_s, design.wheel_speed_difference_error_rad_s)
    return lqr_gain(model.a, model.b, np.diag(1.0 / np.square(limits)), np.eye(2) / design.action**2)


def observation_gain(gain: Float64Array, config: BalanceConfig) -> NDArray[np.float32]:
    """The same gain on the observation, float32 [2, 6]; errors count target minus state, and the wheel speeds are in them."""
    on_observation = np.zeros((2, 6))
    on_observation[:, 0] = -gain[:, 0] * config.pitch_scale_rad
    on_observation[:, 1] = -gain[:, 1] * config.pitch_rate_scale_rad_s
    on_observation[:, 4] = gain[:, 2] * config.speed_error_scale_rad_s
    on_observation[:, 5] = gain[:, 3] * config.wheel_speed_difference_error_scale_rad_s
    return on_observation.astype(np.float32)


def limited_actor(design: LqrConfig, config: BalanceConfig) -> Layers:
    """The regulator as two dense layers with a ReLU between them and a clip behind: [(weights, biases), (weights, biases)].

    What the gain works on lies within -1..1, so that one unit ``relu(x + 1)`` passes it on; the speed error takes two:
    ``clip(x, -c, c) = relu(x + c) - relu(x - c) - c``.
    """
    gain = observation_gain(feedback(design, config), config)
    limit = design.speed_error_limit_rad_s / config.speed_error_scale_rad_s
    observed = (0, 1, 5, 4, 4)  # pitch, pitch rate, wheel-speed-difference error, speed error twice
    offsets = np.array([1.0, 1.0, 1.0, limit, -limit])
    hidden = np.zeros((len(observed), gain.shape[1]))
    hidden[range(len(observed)), observed] = 1.0
    output = gain[:, observed] * (1.0, 1.0, 1.0, 1.0, -1.0)
    constant = -gain[:, [0, 1, 5]].sum(axis=1) - limit * gain[:, 4]
    dense = ((hidden, offsets), (output, constant))
    return [(weights.astype(np.float32), biases.astype(np.float32)) for weights, biases in dense]


@dataclass(frozen=True)
class LinearModel:
    """``x[k+1] = a x[k] + b u[k]`` over one control step; ``x`` is STATES, ``u`` is INPUTS (-1..1).

    The speed is the mean of both wheels, the difference right minus left. Any speed is an equilibrium, so that targets
    are reached by shifting ``x``.
    """

    a: Float64Array  # float64 [4, 4]
    b: Float64Array  # float64 [4, 2]


def linearize(config: BalanceConfig) -> LinearModel:
    """Linearizes the MuJoCo model around the robot that stands upright.

    ``mjd_transitionFD`` gives the transition of one physics step; a control step is several of those with the command held,
    and the command is the sum of the actions. Of the 15 modes of that system 11 have died down within a few control
    steps: contacts, rolling constraint, wheel servo. They are cut off (modal truncation), and what is left is written in
    coordinates that are measured.
    """
    model = load_model(replace(config, options=NOMINAL), looks=False)
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


def solve_riccati(a: Float64Array, b: Float64Array, q: Float64Array, r: Float64Array) -> Float64Array:
    """The stabilizing solution P of ``P = q + a'Pa - a'Pb (r + b'Pb)^-1 b'Pa``, float64 [n, n].

    By the structure-preserving doubling algorithm (Chu, Fan, Lin and Wang 2004), which converges quadratically.

    Args:
        a: float64 [n, n].
        b: float64 [n, m].
        q: cost of the state, float64 [n, n], symmetric and not negative.
        r: cost of the input, float64 [m, m], symmetric and positive.

    Raises:
        numpy.linalg.LinAlgError: there is no stabilizing solution, for example because ``b`` does not reach an unstable mode.
    """
    identity = np.eye(len(a))
    ak, g, p = a, b @ np.linalg.solve(r, b.T), q
    with np.errstate(over="ignore", invalid="ignore"):  # the check below finds it
        for _ in range(_MAX_DOUBLINGS):
            w = np.linalg.solve(identity + g @ p, np.hstack([ak, g]))
            w_a, w_g = w[:, : len(a)], w[:, len(a) :]
            step = ak.T @ p @ w_a
            ak, g, p = ak @ w_a, g + ak @ w_g @ ak.T, p + step
            if not np.max(np.abs(step)) > _TOLERANCE * np.max(np.abs(p)):
                break
    if not (np.all(np.isfinite(p)) and np.max(np.abs(np.linalg.eigvals(a - b @ _gain(a, b, r, p)))) < 1.0):
        raise np.linalg.LinAlgError("the Riccati equation has no stabilizing solution")
    return np.asarray(0.5 * (p + p.T))


def lqr_gain(a: Float64Array, b: Float64Array, q: Float64Array, r: Float64Array) -> Float64Array:
    """The feedback ``u = -k x``, float64 [m, n], that minimizes the sum of ``x'qx + u'ru``. Raises as ``solve_riccati`` does."""
    return _gain(a, b, r, solve_riccati(a, b, q, r))


def _gain(a: Float64Array, b: Float64Array, r: Float64Array, p: Float64Array) -> Float64Array:
    return np.asarray(np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a))
