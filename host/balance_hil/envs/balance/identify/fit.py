"""Least squares of a step response: armature, damping, torque limit and gain of the wheel servos.

On a stand a wheel turns by ``J w' = clip(k (c - w), +-T) - d w`` with the inertia J of wheel, load and armature; coasting, the
first term is zero. For a command that is held over a sample this has a closed solution, so the fit needs no simulator and no time
step. J, d, T and k enter by their ratios alone: only a second run with a known load separates them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mujoco import minimize
from numpy.typing import NDArray

from balance_hil.envs.balance.identify.log import Run
from balance_hil.envs.balance.plant import read_model
from balance_hil.errors import CalibrationLogError

Array = NDArray[np.float64]
CONFIDENCE_Z = 1.959964  # of a two-sided 95 % interval
POOR = 0.2  # a relative standard deviation above this is not a result
_REST_SAMPLES = 5
_MIN_DAMPING = 1e-9
# name as in the options, unit, start of the fit (the model's value), bounds
_PARAMETERS = (
    ("armature_kg_m2", "kg m2", 1e-4, 1e-7, 1e-2),
    ("damping_nm_s_rad", "N m s/rad", 5e-4, 1e-7, 1e-1),
    ("torque_limit_nm", "N m", 0.3, 1e-3, 10.0),
    ("servo_gain_nm_s_rad", "N m s/rad", 0.2, 1e-3, 10.0),
)


@dataclass(frozen=True)
class Parameter:
    """One identified number."""

    name: str  # as in the group ``motor`` of the options
    unit: str
    value: float
    low: float  # of the 95 % confidence interval
    high: float
    model: float  # what the shipped model has

    @property
    def determined(self) -> bool:
        """Whether the log determines it."""
        return self.high / self.low < math.exp(2 * CONFIDENCE_Z * POOR)


@dataclass(frozen=True)
class Identification:
    """Result of a fit."""

    parameters: tuple[Parameter, ...]
    residual_rms_rad_s: float
    samples: int  # measured speeds, of both wheels
    predicted_rad_s: tuple[Array, ...]  # for each run, [n, 2]


def wheel_inertia_kg_m2() -> float:
    """Of a bare wheel about its axle, in the shipped model."""
    return float(read_model().body("wheel_left").inertia[1])


def identify(runs: Sequence[Run]) -> Identification:
    """Fits the motor's parameters, common to both wheels, to step responses with at least two different loads.

    Raises:
        CalibrationLogError: one load only, wheels that do not move, or a fit that does not converge.
    """
    if len({run.load_kg_m2 for run in runs}) < 2:
        raise CalibrationLogError(
            "all runs of the log have the same load: inertia, damping, torque and gain are known only up to a common factor",
            "record a second run with a disc of known inertia on each wheel, and its load_kg_m2 in the log",
        )
    if max(float(np.ptp(run.speed_rad_s)) for run in runs) < 1.0:
        raise CalibrationLogError("the wheels do not move in this log", "check the motors and the columns of the speeds")
    response = _Response(runs)
    start = np.log([row[2] for row in _PARAMETERS])
    bounds = [np.log([row[i] for row in _PARAMETERS]) for i in (3, 4)]
    # A regulariser that changes by 10 from try to try needs a quarter of the tries that MuJoCo's own 1.26 needs.
    x, _ = minimize.least_squares(
        start, response.residual, bounds=bounds, eps=1e-6, mu_factor=10.0, max_iter=60, xtol=1e-7, x_scale="jac", verbose=0
    )
    residual = response.residual(x[:, np.newaxis])[:, 0]
    deviation = _deviations(response, x, residual)
    parameters = tuple(
        Parameter(name, unit, math.exp(v), math.exp(v - CONFIDENCE_Z * s), math.exp(v + CONFIDENCE_Z * s), model)
        for (name, unit, model, _, _), v, s in zip(_PARAMETERS, x.tolist(), deviation.tolist(), strict=True)
    )
    rms = float(np.sqrt(np.mean(residual**2)))
    if not math.isfinite(rms):
        raise CalibrationLogError("the fit does not converge", "look at the log: hil identify LOG.csv --plot residuals.png")
    return Identification(parameters, rms, residual.size, response.predicted(x))


def _deviations(response: _Response, x: Array, residual: Array) -> Array:
    """Standard deviations of the logarithms of the parameters, from the residual's own size; white noise is assumed."""
    step = 1e-4
    shifted = np.concatenate([x[:, np.newaxis] + step * np.eye(x.size), x[:, np.newaxis] - step * np.eye(x.size)], axis=1)
    values = response.residual(shifted)
    jacobian = (values[:, : x.size] - values[:, x.size :]) / (2 * step)
    variance = float(residual @ residual) / max(1, residual.size - x.size)
    # A parameter that changes nothing gets an interval as wide as can be written, not a division by zero.
    _, s, vt = np.linalg.svd(jacobian, full_matrices=False)
    inverse = vt.T * (1.0 / np.maximum(s, 1e-9 * s[0])) ** 2
    variances = variance * np.einsum("ij,ji->i", inverse, vt)
    return np.asarray(np.minimum(np.sqrt(np.maximum(variances, 0.0)), 50.0))


class _Response:
    """Predicted speeds of all runs and both wheels side by side, for many parameter vectors at once."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        steps = max(len(run.t_s) for run in runs)
        lanes = 2 * len(runs)
        self._h = np.zeros((steps, lanes))
        self._command = np.zeros((steps, lanes))
        self._drive = np.zeros((steps, lanes), np.bool_)
        self._measured = np.zeros((steps, lanes))
        self._valid = np.zeros((steps, lanes), np.bool_)
        for i, run in enumerate(runs):
            n, lane = len(run.t_s), slice(2 * i, 2 * i + 2)
            self._h[: n - 1, lane] = np.diff(run.t_s)[:, np.newaxis]
            self._command[:n, lane] = run.command_rad_s
            self._drive[:n, lane] = run.drive[:, np.newaxis]
            self._measured[:n, lane] = run.speed_rad_s
            self._valid[:n, lane] = True
        self._inertia = wheel_inertia_kg_m2() + np.repeat([run.load_kg_m2 for run in runs], 2)
        self._start = self._measured[:_REST_SAMPLES].mean(axis=0)

    def residual(self, x: Array) -> Array:
        """Predicted less measured speed, rad/s, [samples, k], for logarithms of parameters [4, k]."""
        predicted = self._integrate(np.atleast_2d(x.T).T)
        difference = predicted - self._measured[:, np.newaxis, :]
        return difference.transpose(0, 2, 1)[self._valid]

    def predicted(self, x: Array) -> tuple[Array, ...]:
        """Speeds of each run, [n, 2]."""
        speeds = self._integrate(x[:, np.newaxis])[:, 0, :]
        return tuple(speeds[: len(run.t_s), 2 * i : 2 * i + 2] for i, run in enumerate(self._runs))

    def _integrate(self, x: Array) -> Array:
        """Speeds, [steps, k, lanes]."""
        armature, damping, torque, gain = np.exp(x)[:, :, np.newaxis]
        damping = np.maximum(damping, _MIN_DAMPING)
        coast_rate = damping / (self._inertia + armature)
        servo_rate = (gain + damping) / (self._inertia + armature)
        band = torque / gain  # speed error at which the torque is at its limit
        held = gain / (gain + damping)  # share of a command at which a wheel settles
        limit_speed = torque / damping
        speed = np.broadcast_to(self._start, servo_rate.shape).copy()
        out = np.empty((len(self._h), *speed.shape))
        for k, (h, command, drive) in enumerate(zip(self._h, self._command, self._drive, strict=True)):
            out[k] = speed
            sign = np.sign(command - speed)
            # Time at the torque limit: none within the band, and at most this sample.
            edge = command - sign * band
            settling = sign * limit_speed
            saturated = sign * (edge - speed) > 0.0
            ratio = np.where(saturated, (settling - edge) / np.where(saturated, settling - speed, 1.0), 1.0)
            time = np.where(ratio > 0.0, -np.log(np.maximum(ratio, 1e-300)) / coast_rate, h)
            time = np.where(saturated, np.minimum(time, h), 0.0)
            at_limit = settling + (speed - settling) * np.exp(-coast_rate * time)
            target = held * command
            driven = target + (at_limit - target) * np.exp(-servo_rate * (h - time))
            speed = np.where(drive, driven, speed * np.exp(-coast_rate * h))
        return out
