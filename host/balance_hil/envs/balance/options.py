"""Domain randomization: physics, motors, battery, sensors, delays, pushes and thrown blocks that differ from the nominal robot.

``RobotOptions`` is one frozen dataclass and one YAML form. The default of every field is the nominal robot, and a group
at its defaults costs nothing. A quantity is a number, or a range ``[low, high]`` from which it is sampled uniformly: once per
reset, those of ``pushes`` and ``blocks`` once per event. Nothing else decides: the same seed and options give the same episode.

    physics:
      mass_scale: [0.85, 1.15]
      friction: [0.5, 1.2]
    sensors:
      pitch_bias_rad: 0.01
    blocks:
      sides: [front, back]
"""
# ruff: noqa: RUF009 - _quantity is dataclasses.field with the limits of the quantity

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from balance_hil.errors import ConfigError
from balance_hil.files import read_yaml, require_known

MAX_DELAY_STEPS = 50
SIDES = ("front", "back", "left", "right")
OPTIONS_HINT = "the options and their units: docs/environments.md"


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A range from which a quantity is sampled; both ends belong to it."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """The value at the fraction ``u``, 0..1, of the range."""
        return min(self.high, max(self.low, self.low + u * (self.high - self.low)))  # rounding may step outside


Quantity = float | Uniform


class Limits(NamedTuple):
    """What a quantity may be; ``whole`` numbers only, ``None`` where that leaves it to the model."""

    low: float
    high: float
    whole: bool = False
    optional: bool = False


def pick(value: Quantity | None, u: float, *, whole: bool = False) -> float:
    """A quantity's value: itself, or where ``u``, 0 <= u < 1, falls in its range."""
    if isinstance(value, Uniform):
        return math.floor(value.low + u * (value.high - value.low + 1.0)) if whole else value.at(u)
    return cast(float, value)


def fixed(value: Quantity | None) -> float:
    """A quantity that has been sampled, as the number that it is."""
    assert isinstance(value, int | float)
    return float(value)


def check_quantity(value: Any, limits: Limits, name: str) -> None:
    """Raises ConfigError for an unknown quantity or a value out of its limits."""
    if value is None and limits.optional:
        return
    ends = (value.low, value.high) if isinstance(value, Uniform) else (value,)
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int | float) or not limits.low <= end <= limits.high:
            raise ConfigError(f"option {name!r} is {end!r}, it must be within {limits.low:g}..{limits.high:g}", OPTIONS_HINT)
        if limits.whole and end != int(end):
            raise ConfigError(f"option {name!r} is {end!r}, it must be a whole number", OPTIONS_HINT)
    if ends[0] > ends[-1]:
        raise ConfigError(f"the range of option {name!r} is upside down: {ends[0]:g} to {ends[-1]:g}", "write [low, high]")


def _quantity(default: Quantity | None, low: float, high: float = math.inf, *, whole: bool = False) -> Any:
    return field(default=default, metadata={"limits": Limits(low, high, whole, default is None)})


@dataclass(frozen=True, kw_only=True)
class PhysicsOptions:
    """Body and ground."""

    mass_scale: Quantity = _quantity(1.0, 0.1, 10.0)  # of masses and inertias of body and wheels
    friction: Quantity | None = _quantity(None, 0.0, 5.0)  # sliding coefficient of wheel on ground; the model has 0.9
    com_offset_x_m: Quantity = _quantity(0.0, -0.05, 0.05)  # of the body's center of mass, forward
    com_offset_z_m: Quantity = _quantity(0.0, -0.05, 0.05)  # and up
    ground_slope_rad: Quantity = _quantity(0.0, -0.3, 0.3)  # uphill in the direction that the robot faces at the start


@dataclass(frozen=True, kw_only=True)
class MotorOptions:
    """Both wheel servos: velocity servos of limited torque. ``None`` takes the model's value."""

    armature_kg_m2: Quantity | None = _quantity(None, 1e-6, 0.01)  # rotor inertia, at the wheel; the model has 1e-4
    damping_nm_s_rad: Quantity | None = _quantity(None, 0.0, 0.1)  # viscous friction; the model has 5e-4
    torque_limit_nm: Quantity | None = _quantity(None, 0.001, 10.0)  # of each servo; the model has 0.3
    servo_gain_nm_s_rad: Quantity | None = _quantity(None, 0.001, 10.0)  # torque per speed error, kv; the model has 0.2
    servo_gain_scale: Quantity = _quantity(1.0, 0.01, 10.0)  # multiplies the gain
    lag_s: Quantity = _quantity(0.0, 0.0, 0.5)  # first-order lag of the commanded speed, exact at every physics step
    dead_band_rad_s: Quantity = _quantity(0.0, 0.0, 40.0)  # commanded speeds below it are taken as 0
    dry_friction_nm: Quantity = _quantity(0.0, 0.0, 1.0)  # Coulomb friction of the gear


@dataclass(frozen=True, kw_only=True)
class BatteryOptions:
    """Torque-speed curve of the motors on a battery that sags under load. Off while ``voltage_v`` is None.

    At the terminal voltage v a motor gives at most ``stall torque (v / nominal - speed / no-load speed)`` in the direction in
    which it turns, its torque limit being the stall torque at the nominal voltage; v is the open-circuit voltage less the
    internal resistance times the current of both motors.
    """

    voltage_v: Quantity | None = _quantity(None, 0.1, 100.0)  # open circuit; none: no battery
    internal_resistance_ohm: Quantity = _quantity(0.15, 0.0, 10.0)  # times the current of both motors it lowers the voltage
    nominal_voltage_v: Quantity = _quantity(7.4, 0.1, 100.0)  # where torque limit, no-load speed and stall current hold
    no_load_speed_rad_s: Quantity = _quantity(90.0, 1.0, 1000.0)  # of the wheel, at the nominal voltage
    stall_current_a: Quantity = _quantity(2.5, 0.01, 100.0)  # of one motor, at the nominal voltage


@dataclass(frozen=True, kw_only=True)
class SensorOptions:
    """IMU and wheel encoders. Noise scales multiply the white noise of the environment."""

    imu_noise_scale: Quantity = _quantity(1.0, 0.0, 100.0)  # of the white noise of pitch and pitch rate
    encoder_noise_scale: Quantity = _quantity(1.0, 0.0, 100.0)  # of the white noise of the wheel speeds
    pitch_bias_rad: Quantity = _quantity(0.0, -0.5, 0.5)  # mounting offset of the IMU
    gyro_bias_rad_s: Quantity = _quantity(0.0, -1.0, 1.0)  # at the start of the episode
    gyro_bias_walk_rad_s_sqrt_s: Quantity = _quantity(0.0, 0.0, 1.0)  # deviation of its random walk after 1 s
    encoder_ticks_per_rev: Quantity = _quantity(0.0, 0.0, 1e6, whole=True)  # wheel speed in ticks per control step; 0: exact


@dataclass(frozen=True, kw_only=True)
class DelayOptions:
    """Delays, in control steps of 5 ms."""

    observation_steps: Quantity = _quantity(0.0, 0.0, MAX_DELAY_STEPS, whole=True)  # age of the measurements
    observation_jitter_steps: Quantity = _quantity(0.0, 0.0, MAX_DELAY_STEPS, whole=True)  # 0 to this more at every step
    action_steps: Quantity = _quantity(0.0, 0.0, MAX_DELAY_STEPS, whole=True)  # from policy to motor


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Shoves at the body's center of mass, in a horizontal direction that is sampled for each, over one control step."""

    impulse_n_s: Quantity = _quantity(0.0, 0.0, 10.0)  # per push; 0: none
    interval_s: Quantity = _quantity(Uniform(low=1.0, high=3.0), 0.05, 1000.0)  # per push
    sides: tuple[str, ...] = SIDES  # from where


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """Solid cubes thrown at the robot, one in the air at a time."""

    sides: tuple[str, ...] = ()  # from where, seen from the robot; none: no blocks
    mass_kg: Quantity = _quantity(Uniform(low=0.01, high=0.03), 0.001, 5.0)  # solid cubes, inertia m s²/6
    size_m: Quantity = _quantity(Uniform(low=0.02, high=0.04), 0.005, 0.2)  # edge
    speed_m_s: Quantity = _quantity(Uniform(low=1.0, high=2.0), 0.1, 20.0)  # horizontal, relative to the robot; per block
    interval_s: Quantity = _quantity(Uniform(low=1.5, high=3.0), 1.0, 1000.0)  # per block
    distance_m: Quantity = _quantity(0.4, 0.2, 3.0)  # from which it is thrown
    spread_rad: Quantity = _quantity(math.pi / 4, 0.0, math.pi / 4)  # of the direction, to either side


@dataclass(frozen=True, kw_only=True)
class RobotOptions:
    """Everything in which a robot differs from the nominal one; see the module's docstring."""

    physics: PhysicsOptions = PhysicsOptions()
    motor: MotorOptions = MotorOptions()
    battery: BatteryOptions = BatteryOptions()
    sensors: SensorOptions = SensorOptions()
    delays: DelayOptions = DelayOptions()
    pushes: PushOptions = PushOptions()
    blocks: BlockOptions = BlockOptions()

    def __post_init__(self) -> None:
        for group, name, limits in _quantities():
            check_quantity(getattr(getattr(self, group), name), limits, f"{group}.{name}")
        for group in ("pushes", "blocks"):
            for side in getattr(self, group).sides:
                require_known(side, SIDES, "side", f" in '{group}.sides'")

    @property
    def is_nominal(self) -> bool:
        """Nothing differs."""
        return self == NOMINAL

    def sampled(self, u: list[float]) -> RobotOptions:
        """These options with every per-reset range replaced by the value that the fractions ``u``, float [N_SAMPLED], pick."""
        changes: dict[str, dict[str, float]] = {}
        for (group, name, limits), fraction in zip(_sampled_per_reset(), u, strict=True):
            value = getattr(getattr(self, group), name)
            if isinstance(value, Uniform):
                changes.setdefault(group, {})[name] = pick(value, fraction, whole=limits.whole)
        if not changes:
            return self
        groups = {group: dataclasses.replace(getattr(self, group), **values) for group, values in changes.items()}
        result = object.__new__(RobotOptions)  # the ranges have been checked: not again at every reset
        for each in fields(self):
            object.__setattr__(result, each.name, groups.get(each.name, getattr(self, each.name)))
        return result

    def to_dict(self) -> dict[str, Any]:
        """What differs from the nominal robot, in plain JSON types; ``options_from_dict`` is the inverse."""
        differing = {}
        for group in fields(self):
            mine, nominal = getattr(self, group.name), getattr(NOMINAL, group.name)
            values = {
                f.name: _plain(getattr(mine, f.name)) for f in fields(mine) if getattr(mine, f.name) != getattr(nominal, f.name)
            }
            if values:
                differing[group.name] = values
        return differing


def options_from_dict(values: Mapping[str, Any], base: RobotOptions | None = None, name: str = "options") -> RobotOptions:
    """Options from groups of quantities, a range being [low, high], on top of ``base`` (default: the nominal robot).

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range; the message names the key, and the source by ``name``.
    """
    options = base or NOMINAL
    groups = {}
    for group, content in values.items():
        require_known(group, [f.name for f in fields(RobotOptions)], "option", f" in {name}")
        if not isinstance(content, Mapping):
            raise ConfigError(f"{group!r} of {name} is {content!r}, it must be a table of keys and values", OPTIONS_HINT)
        known = [f.name for f in fields(getattr(options, group))]
        changes = {}
        for key, value in content.items():
            require_known(key, known, "option", f" in {name}", prefix=f"{group}.")
            changes[key] = _read_value(value, key, f"{group}.{key}")
        groups[group] = dataclasses.replace(getattr(options, group), **changes)
    return dataclasses.replace(options, **groups)


def load_options(path: Path, base: RobotOptions | None = None) -> RobotOptions:
    """Options from a YAML file; see ``options_from_dict``. Raises ConfigError."""
    return options_from_dict(read_yaml(path, OPTIONS_HINT), base, str(path))


def options_between(start: RobotOptions, end: RobotOptions, share: float) -> RobotOptions:
    """Options on the way from ``start`` (share 0) to ``end`` (1): both ends of every range move linearly.

    Raises:
        ConfigError: a quantity is the model's own at one of the ends, so that it cannot be interpolated.
    """
    if share in (0.0, 1.0):
        return end if share else start
    groups = {}
    for group in fields(RobotOptions):
        easy, hard = getattr(start, group.name), getattr(end, group.name)
        values = {
            f.name: _between(getattr(easy, f.name), getattr(hard, f.name), share, f.metadata["limits"], f"{group.name}.{f.name}")
            for f in fields(hard)
            if "limits" in f.metadata  # the sides, of pushes and blocks, are those of the end
        }
        groups[group.name] = dataclasses.replace(hard, **values)
    return RobotOptions(**groups)


def _between(easy: Quantity | None, hard: Quantity | None, share: float, limits: Limits, name: str) -> Quantity | None:
    if easy == hard:
        return hard
    if easy is None or hard is None:
        raise ConfigError(
            f"the curriculum cannot move {name!r} from {easy} to {hard}", f"name the model's own value in its start: {name}"
        )
    ends = [(each.low, each.high) if isinstance(each, Uniform) else (each, each) for each in (easy, hard)]
    low, high = (a + share * (b - a) for a, b in zip(*ends, strict=True))
    if limits.whole:
        low, high = float(round(low)), float(round(high))
    return Uniform(low=low, high=high) if low != high else low


@cache
def _quantities() -> tuple[tuple[str, str, Limits], ...]:
    """(group, name, limits) of every quantity."""
    return tuple(
        (group.name, each.name, each.metadata["limits"])
        for group in fields(RobotOptions)
        for each in fields(cast(Any, group.default))
        if "limits" in each.metadata
    )


_PER_EVENT = {("pushes", "impulse_n_s"), ("pushes", "interval_s"), ("blocks", "speed_m_s"), ("blocks", "interval_s")}


@cache
def _sampled_per_reset() -> tuple[tuple[str, str, Limits], ...]:
    return tuple(quantity for quantity in _quantities() if quantity[:2] not in _PER_EVENT)


def _read_value(value: Any, key: str, name: str) -> Any:
    if key == "sides":
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ConfigError(f"option {name!r} is {value!r}, a range is [low, high]", OPTIONS_HINT)
        return Uniform(low=_number(value[0], name), high=_number(value[1], name))
    return None if value is None else _number(value, name)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool):
        value = None
    try:
        return float(value)  # YAML reads 1e-3, without a point, as text
    except (TypeError, ValueError):
        raise ConfigError(f"option {name!r} holds {value!r}, it must be a number or a range [low, high]", OPTIONS_HINT) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Uniform):
        return [value.low, value.high]
    return list(value) if isinstance(value, tuple) else value


NOMINAL = RobotOptions()
N_SAMPLED = len(_sampled_per_reset())
