"""What inferences cost, kept in a file, and a comparison with such files that names whatever has grown."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from balance_hil import __version__, history
from balance_hil.benchmarks.image_sizes import UNNAMED
from balance_hil.errors import ConfigError, UsageError
from balance_hil.files import parse_json, read_limited, write_atomically
from balance_hil.metrics import Verdict

SCHEMA = "balance_hil/costs@2"
THRESHOLD = 0.02  # share by which something may grow
LEAST = 16  # of instructions, cycles or bytes: a smaller growth is none. The Pico's parts vary by 5 cycles
JUDGED_UNITS = ("instructions", "cycles")  # they repeat; microseconds do not
_MOST_BYTES = 8 << 20
_MOST_FILES = 500
_MOST_COSTS = 1_000
_MOST_NUMBERS = 20_000  # in each table
_LONGEST_TEXT = 1_000
_LARGEST = 1e15
_MOST_REASONS = 20
# Tables of a Cost, and what an entry of it is called.
_TABLES = {"cost": "", "memory": "", "flash": "flash, symbol ", "ram": "RAM, symbol "}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one engine takes for one model on one board. The symbols of an image that is not known are empty."""

    board: str
    engine: str
    policy: str
    engine_version: str
    model: str  # its id
    compiler: str
    firmware: str  # commit
    unit: str  # of ``cost``
    cost: Mapping[str, float]  # of an inference, of each layer, of loading
    memory: Mapping[str, float]  # bytes: arena, object, stack, code, flash, RAM
    flash: Mapping[str, float]  # bytes by symbol
    ram: Mapping[str, float]

    @property
    def name(self) -> str:
        """By which costs of two files belong together."""
        return f"{self.board} {self.engine} {self.policy}"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A file of costs."""

    path: str
    time_s: float
    commit: str
    costs: tuple[Cost, ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One number that is not what it was; None: it was not there, or is not there any more."""

    what: str  # board, engine and policy
    name: str  # "0 FULLY_CONNECTED", "arena", "flash, symbol main"
    unit: str
    before: float | None
    now: float | None
    grown: bool  # beyond the threshold

    @property
    def text(self) -> str:
        """For example "0 FULLY_CONNECTED 1,443 to 1,500 instructions (+4.0 %)"."""
        if self.before is None:
            return f"{self.name} is new, {self.now:,.6g} {self.unit}"
        if self.now is None:
            return f"{self.name} is gone, {self.before:,.6g} {self.unit}"
        share = f" ({self.now / self.before - 1:+.1%})" if self.before else ""
        return f"{self.name} {self.before:,.6g} to {self.now:,.6g} {self.unit}{share}"


@dataclass(frozen=True, kw_only=True)
class CostComparison:
    """Costs of now against those of a file."""

    against: str
    commits: tuple[str, str]  # before and now
    threshold: float
    compared: tuple[str, ...]  # "qemu-m4 int8 ppo"
    changes: tuple[Change, ...]
    otherwise: tuple[str, ...]  # what else is not as it was: compilers, versions of engines
    not_judged: tuple[str, ...]  # and why
    not_compared: tuple[str, ...]  # and why; a reason against the verdict

    @property
    def verdict(self) -> Verdict:
        """Good when everything measured or asked for could be compared, and nothing has grown."""
        grown = [f"{change.what}: {change.text}" for change in self.changes if change.grown]
        more = [f"and {len(grown) - _MOST_REASONS} more"] if len(grown) > _MOST_REASONS else []
        return Verdict((*self.not_compared, *grown[:_MOST_REASONS], *more))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"verdict": self.verdict.to_dict()}


# --- comparing ------------------------------------------------------------------------------------------------------------


def compare_costs(
    now: Sequence[Cost], before: Saved, boards: Sequence[str] = (), threshold: float = THRESHOLD, commit: str = ""
) -> CostComparison:
    """What has changed since a file was saved.

    Costs of different models, or in different units, are not compared; each such pair is a reason against the verdict, as is
    one that only one side has. Another compiler or version of an engine is named.

    Args:
        now: the costs of now.
        before: what they are held against.
        boards: those asked for; the others of the file are left out. Empty: all of them.
        threshold: share by which a cost, a layer, a kind of memory or a symbol may grow.
        commit: of now.
    """
    old = {cost.name: cost for cost in before.costs}
    compared, changes, otherwise, not_judged, refused = [], list[Change](), list[str](), list[str](), list[str]()
    for cost in now:
        was = old.pop(cost.name, None)
        if was is None:
            refused.append(f"{cost.name}: not compared, {before.path} does not have it")
            continue
        other = [what for what in ("model", "unit") if getattr(was, what) != getattr(cost, what)]
        if other:
            why = ", ".join(f"its {what} was {getattr(was, what)} and is {getattr(cost, what)}" for what in other)
            refused.append(f"{cost.name}: not compared, {why}")
            continue
        compared.append(cost.name)
        otherwise += [f"{cost.name}: {what.replace('_', ' ')} {getattr(was, what)} to {getattr(cost, what)}"
                      for what in ("compiler", "engine_version") if getattr(was, what) != getattr(cost, what)]  # fmt: skip
        if cost.unit not in JUDGED_UNITS:
            not_judged.append(f"{cost.name}: its {cost.unit} are not judged, since they do not repeat; its bytes are")
        changes += _changes(was, cost, threshold)
    refused += [
        f"{name}: not measured now, and {before.path} has it" for name, cost in old.items() if not boards or cost.board in boards
    ]
    return CostComparison(
        against=before.path,
        commits=(before.commit, commit),
        threshold=threshold,
        compared=tuple(compared),
        changes=tuple(changes),
        otherwise=tuple(otherwise),
        not_judged=tuple(not_judged),
        not_compared=tuple(refused),
    )


def _changes(was: Cost, cost: Cost, threshold: float) -> Iterator[Change]:
    for table, prefix in _TABLES.items():
        before, now = getattr(was, table), getattr(cost, table)
        if not before or not now:  # the image of one of them is unknown
            continue
        judged = table != "cost" or cost.unit in JUDGED_UNITS
        for name in dict.fromkeys((*before, *now)):
            a, b = before.get(name), now.get(name)
            if a == b:
                continue
            # A new symbol is in its region's sum, which is judged; what has no symbol varies with alignment.
            both = a is not None and b is not None
            grown = judged and both and name != UNNAMED and b - a >= LEAST and b - a > threshold * a
            yield Change(
                what=cost.name, name=prefix + name, unit=cost.unit if table == "cost" else "B", before=a, now=b, grown=grown
            )


# --- the file -------------------------------------------------------------------------------------------------------------


def make_room(path: Path) -> None:
    """Makes the folder of a file to be saved. Raises UsageError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot make the folder {path.parent}: {exc.strerror}", "let --save name a file elsewhere") from exc


def save(path: Path, costs: Sequence[Cost]) -> None:
    """Writes costs with the time and the commit of now. Raises UsageError where that is not possible."""
    document = {"schema": SCHEMA, "time_s": time.time(), "commit": history.current_commit(), "host_version": __version__}
    try:
        write_atomically(path, json.dumps(document | {"costs": [asdict(cost) for cost in costs]}, indent=1) + "\n")
    except OSError as exc:
        raise UsageError(
            f"cannot write {path}: {exc.strerror}", "let --save name a file in a folder that you may write to"
        ) from exc


def read_all(paths: Iterable[Path]) -> list[Saved]:
    """The files, and those of the folders, that ``paths`` name, the oldest first.

    Raises:
        ConfigError: one is not a file of costs, or there are too many.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"no file of costs is in {path}", f"make one: hil bench --save {path / 'costs.json'}")
        files += found
    if len(files) > _MOST_FILES:
        raise ConfigError(f"{len(files)} files of costs are more than {_MOST_FILES}", "name fewer, or move old ones away")
    return sorted((read(path) for path in files), key=lambda saved: saved.time_s)


def read(path: Path) -> Saved:
    """A file of costs.

    Raises:
        ConfigError: it cannot be read, is too large, or is not one.
    """
    try:
        document = parse_json(read_limited(path, _MOST_BYTES))
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f'its "schema" is not "{SCHEMA}"')
        costs = document.get("costs")
        if not isinstance(costs, list) or len(costs) > _MOST_COSTS:
            raise ValueError(f'"costs" is no list of at most {_MOST_COSTS}')
        saved = Saved(
            path=path.name,
            time_s=_number(document.get("time_s"), "time_s"),
            commit=_text(document.get("commit"), "commit"),
            costs=tuple(_cost(cost, f"costs[{index}]") for index, cost in enumerate(costs)),
        )
        names = [cost.name for cost in saved.costs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"it has {twice} twice")
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is no file of costs: {exc}", "make one: hil bench --save FILE") from exc
    return saved


def _cost(value: Any, where: str) -> Cost:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    texts = [each.name for each in fields(Cost) if each.name not in _TABLES]
    parts: dict[str, Any] = {name: _text(value.get(name), f"{where}.{name}") for name in texts}
    parts |= {name: _numbers(value.get(name), f"{where}.{name}") for name in _TABLES}
    return Cost(**parts)


def _numbers(value: Any, where: str) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST_NUMBERS:
        raise ValueError(f"{where} is no table of at most {_MOST_NUMBERS} numbers")
    return {_text(name, where): _number(number, f"{where}[{name[:40]!r}]") for name, number in value.items()}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"{where} is no line of at most {_LONGEST_TEXT} characters")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST or not math.isfinite(value):
        raise ValueError(f"{where} is no number from 0 to {_LARGEST:g}")
    return value
