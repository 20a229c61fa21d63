"""The faults that can be injected, and their notation on the command line and in YAML.

    drop:rate=0.05,direction=rx          all the time
    stall:at_s=2,for_s=0.2               once
    reboot:every_s=5                     again and again

A file has the same keys: ``faults: [{fault: stall, at_s: 2, for_s: 0.2}, ...]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from balance_hil.errors import ConfigError, UsageError
from balance_hil.files import did_you_mean, read_yaml

Side = Literal["link", "board"]
Lasts = Literal["always", "while", "once"]  # the whole time, for some time, or a moment
Direction = Literal["tx", "rx", "both"]  # tx: host to board; rx: board to host
Value: TypeAlias = float | str

DEFAULT_FOR_S = 0.1
EPSILON_S = 1e-9  # times are sums of control periods
_HINT = "write NAME:key=value,…, for example drop:rate=0.05,direction=rx or stall:at_s=2,for_s=0.2; see docs/faults.md"


class Parameter(NamedTuple):
    """A number and its limits."""

    default: float
    low: float
    high: float
    text: str
    whole: bool = False


class FaultKind(NamedTuple):
    """One row of the table."""

    side: Side
    lasts: Lasts
    text: str
    parameters: Mapping[str, Parameter]


def _per_frame(default: float = 0.01) -> Parameter:
    return Parameter(default, 0, 1, "probability for a frame")


_BOOT = Parameter(0.05, 0, 10, "s without an answer, with --clock lockstep; else as long as it takes")
KINDS: dict[str, FaultKind] = {
    "drop": FaultKind("link", "always", "a frame is lost", {"rate": _per_frame()}),
    "drop-byte": FaultKind("link", "always", "a byte is lost", {"rate": Parameter(0.001, 0, 1, "probability for a byte")}),
    "burst": FaultKind(
        "link",
        "always",
        "several frames in a row are lost",
        {"rate": _per_frame(0.002), "frames": Parameter(5, 1, 10_000, "frames in a row", whole=True)},
    ),
    "corrupt": FaultKind("link", "always", "one bit of a frame flips", {"rate": _per_frame()}),
    "corrupt-byte": FaultKind(
        "link", "always", "a byte is replaced by another", {"rate": Parameter(0.001, 0, 1, "probability for a byte")}
    ),
    "truncate": FaultKind("link", "always", "a frame loses its end", {"rate": _per_frame()}),
    "duplicate": FaultKind("link", "always", "a frame arrives twice", {"rate": _per_frame()}),
    "reorder": FaultKind("link", "always", "a frame arrives after the one that follows it", {"rate": _per_frame()}),
    "garbage": FaultKind(
        "link",
        "always",
        "random bytes arrive before a frame",
        {"rate": _per_frame(), "bytes": Parameter(16, 1, 4096, "random bytes", whole=True)},
    ),
    "delay": FaultKind(
        "link",
        "always",
        "a frame arrives late",
        {"s": Parameter(0.005, 0, 10, "s later"), "rate": _per_frame(1.0)},
    ),
    "stall": FaultKind("link", "while", "bytes are held and then delivered at once", {}),
    "cut": FaultKind("link", "once", "the cable is unplugged", {}),
    "reboot": FaultKind("board", "once", "the board restarts (RESET)", {"boot_s": _BOOT}),
    "hang": FaultKind("board", "while", "the board stops and goes on: its process is suspended, or its link held", {}),
    "power-cycle": FaultKind("board", "once", "the power of an emulated board is switched off and on", {"boot_s": _BOOT}),
    "clock-drift": FaultKind(
        "board", "always", "the times that the board reports are off", {"ppm": Parameter(100, -999_999, 1e9, "1e-6 too fast")}
    ),
    "flip-bit": FaultKind(
        "board",
        "once",
        "a bit of a weight of the running model flips in an emulated board's memory",
        {"bit": Parameter(7, 0, 7, "of the byte", whole=True)},
    ),
}
_TIMES = {
    "at_s": Parameter(0, 0, math.inf, "s since the beginning of the run"),
    "at_step": Parameter(0, 0, math.inf, "control steps since the beginning of the run", whole=True),
    "every_s": Parameter(1, 1e-3, math.inf, "s from one time to the next"),
    "for_s": Parameter(DEFAULT_FOR_S, 1e-6, math.inf, "s that it lasts"),
}
NEEDS_EMULATION = ("power-cycle", "flip-bit")


@dataclass(frozen=True)
class Fault:
    """One fault to inject. Make it with ``parse_fault`` or ``fault_of``, which check it.

    Without a time, it lasts from the beginning to the end.
    """

    name: str
    parameters: Mapping[str, float] = field(default_factory=dict)  # all those of its kind
    direction: Direction = "both"
    at_s: float | None = None  # of the run
    at_step: int | None = None
    every_s: float | None = None
    for_s: float | None = None

    @property
    def kind(self) -> FaultKind:
        """Its row of the table."""
        return KINDS[self.name]

    def values(self) -> dict[str, Value]:
        """What was set, in the notation of ``fault_of``."""
        given: dict[str, Value] = {
            key: value for key, value in self.parameters.items() if value != self.kind.parameters[key].default
        }
        if self.direction != "both":
            given["direction"] = self.direction
        times = {key: getattr(self, key) for key in _TIMES}
        return {**given, **{key: value for key, value in times.items() if value is not None}}

    def __str__(self) -> str:
        """In the notation of the command line."""
        values = ",".join(
            f"{key}={value if isinstance(value, str) else _shortest(value)}" for key, value in self.values().items()
        )
        return f"{self.name}:{values}" if values else self.name

    def window(self, now_s: float, control_period_s: float | None = None) -> tuple[int, float] | None:
        """Which of its times is in progress (counted from 0) and when that ends; None between them.

        A fault that happens once is in progress from its time on.

        Args:
            now_s: since the beginning of the run.
            control_period_s: for ``at_step``; None: there is no run, and such a fault never begins.
        """
        start_s = self._start_s(control_period_s)
        since_s = now_s - start_s + EPSILON_S
        if since_s < 0 or math.isinf(start_s):
            return None
        count = int(since_s // self.every_s) if self.every_s is not None else 0
        begun_s = start_s + count * (self.every_s or 0.0)
        end_s = begun_s + self.for_s if self.for_s is not None else math.inf
        return None if now_s + EPSILON_S >= end_s else (count, end_s)

    def next_s(self, count: int, control_period_s: float | None = None) -> float:
        """When it happens for the time ``count``, counted from 0; infinity: not at all."""
        if count and self.every_s is None:
            return math.inf
        return self._start_s(control_period_s) + count * (self.every_s or 0.0)

    def _start_s(self, control_period_s: float | None) -> float:
        if self.at_step is not None:
            return math.inf if control_period_s is None else self.at_step * control_period_s
        return self.at_s if self.at_s is not None else self.every_s or 0.0


def parse_fault(text: str) -> Fault:
    """Reads ``NAME[:key=value,…]``. Raises UsageError."""
    name, _, rest = text.strip().partition(":")
    values: dict[str, Value] = {}
    for item in rest.split(",") if rest.strip() else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key in values:
            raise UsageError(f"cannot read {item.strip()!r} in the fault {text!r}", _HINT)
        values[key] = value
    return fault_of(name.strip(), values, f"the fault {text!r}")


def fault_of(name: str, values: Mapping[str, Any], where: str = "") -> Fault:
    """A fault from its name and its keys. Raises UsageError; ``where`` names it in the message."""
    where = where or f"the fault {name!r}"
    kind = KINDS.get(name)
    if kind is None:
        hint = f"faults are {', '.join(KINDS)}"
        raise UsageError(f"unknown fault: {name}" + did_you_mean(name, KINDS), f"{hint}; {_HINT}" if "=" in name else hint)
    known = (*kind.parameters, *_common(name, kind))
    for key in values:
        if key not in known:
            raise UsageError(f"{where} has an unknown key {key!r}" + did_you_mean(key, known), f"{name} has {', '.join(known)}")
    direction = values.get("direction", "both")
    if direction not in get_args(Direction):
        raise UsageError(f"{where} has an unknown direction: {direction}", "tx is host to board, rx is board to host, or both")
    numbers = {key: parameter.default for key, parameter in kind.parameters.items()}
    times: dict[str, Any] = {}
    for key, value in values.items():
        if key in kind.parameters:
            numbers[key] = _number(key, value, kind.parameters[key], where)
        elif key in _TIMES:
            times[key] = _number(key, value, _TIMES[key], where)
    if kind.lasts == "while":
        times.setdefault("for_s", DEFAULT_FOR_S)
    fault = Fault(name, numbers, direction, **times)
    _check_times(fault, where)
    return fault


def read_faults(path: Path) -> list[Fault]:
    """The faults of a YAML file. Raises ConfigError."""
    hint = "the form is: faults: [{fault: drop, rate: 0.05, at_s: 2, for_s: 1}, ...]; see docs/faults.md"
    content = read_yaml(path, hint)
    for key in content:
        if key != "faults":
            raise ConfigError(f"{path} has an unknown key {key!r}" + did_you_mean(key, ("faults",)), hint)
    entries = content.get("faults")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path} has no list of faults", hint)
    faults = []
    for number, entry in enumerate(entries, start=1):
        where = f"fault {number} of {path}"
        if not isinstance(entry, dict) or not isinstance(entry.get("fault"), str):
            raise ConfigError(f"{where} is {entry!r}, it must be a table with the key 'fault'", hint)
        values = {str(key): value for key, value in entry.items() if key != "fault"}
        try:
            faults.append(fault_of(entry["fault"], values, f"{where} ({entry['fault']})"))
        except UsageError as exc:
            message = exc.message if exc.message.startswith(where) else f"{where}: {exc.message}"
            raise ConfigError(message, exc.hint) from None
    return faults


def parse_faults(texts: Iterable[str | Fault]) -> list[Fault]:
    """Faults, each in the notation of the command line, or the name of a YAML file of faults.

    Raises:
        UsageError, ConfigError: one of them is wrong.
    """
    faults: list[Fault] = []
    for text in texts:
        if isinstance(text, Fault):
            faults.append(text)
        elif text.endswith((".yaml", ".yml")):
            faults += read_faults(Path(text))
        else:
            faults.append(parse_fault(text))
    return faults


def _common(name: str, kind: FaultKind) -> tuple[str, ...]:
    """The keys that a kind has besides its parameters."""
    lasting = () if kind.lasts == "once" else ("for_s",)
    directed = ("direction",) if kind.side == "link" and name != "cut" else ()
    return (*directed, "at_s", "at_step", "every_s", *lasting)


def _number(key: str, value: Any, parameter: Parameter, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError(value)
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{where}: {key} is {value!r}, not a number", _HINT) from None
    if not (parameter.low <= number <= parameter.high and math.isfinite(number)):
        limits = f"{parameter.low:g} to {parameter.high:g}" if math.isfinite(parameter.high) else f"at least {parameter.low:g}"
        raise UsageError(f"{where}: {key} cannot be {number:g}", f"{key} ({parameter.text}) is {limits}")
    if parameter.whole and number != int(number):
        raise UsageError(f"{where}: {key} must be a whole number, not {number:g}", f"{key}: {parameter.text}")
    return int(number) if parameter.whole else number


def _shortest(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _check_times(fault: Fault, where: str) -> None:
    if fault.at_s is not None and fault.at_step is not None:
        raise UsageError(f"{where} has two beginnings", "give at_s or at_step")
    timed = (fault.at_s, fault.at_step, fault.every_s)
    if fault.kind.lasts != "always" and all(time is None for time in timed):
        raise UsageError(f"{where} has no time", f"say when: {fault.name}:at_s=2, or again and again: {fault.name}:every_s=5")
    if fault.every_s is not None and fault.kind.lasts != "once" and not (fault.for_s or math.inf) < fault.every_s:
        raise UsageError(f"{where} begins again before it ends", f"give a for_s that is less than every_s={fault.every_s:g}")
