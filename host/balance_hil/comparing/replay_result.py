"""What a replay found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from balance_hil.metrics import Verdict

SCHEMA = "balance_hil/replay@2"
_PLURALS = {"input_int8": "int8 inputs", "output_int8": "int8 outputs", "action": "actions"}


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """The earliest value that differs."""

    episode: int  # counts from 0
    step: int  # of the episode, counts from 0
    t_s: float  # simulated time within the episode
    index: int  # element of the vector
    signal: str  # its name in the bundle's table
    recorded: float
    replayed: float


@dataclass(frozen=True, kw_only=True)
class ReplayRow:
    """One kind of value, recorded against replayed."""

    what: str  # "input_int8", "output_int8" or "action"
    a: str  # "recorded"
    b: str  # name of the replaying runtime or board
    steps: int  # compared
    values: int  # compared: steps times elements
    differing: int
    max_lsb: float  # largest |a - b| in steps of the int8 scale; a whole number for int8 rows
    first: FirstDifference | None  # None: nothing differs


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Result of one replay. ``to_dict`` is the ``--json`` document."""

    recording: str
    bundle: str  # id
    recorded_by: Mapping[str, Any]
    replayed_by: Mapping[str, Any]
    episodes: int
    steps: int  # control steps in the recording
    held: int  # of them without a reply: nothing to compare
    late: int  # of them with a reply to an earlier observation: compared from the recorded int8 input on
    missing: str  # of a recording that was cut off; "" of a whole one
    rows: tuple[ReplayRow, ...]

    @property
    def equal(self) -> bool:
        """Whether every value is the recorded one."""
        return not any(row.differing for row in self.rows)

    @property
    def summary(self) -> str:
        """One-sentence summary of a replay without differences."""
        who, before = self.replayed_by["name"], self.recorded_by["board"]
        return f"{who} computes what {before} computed when this was recorded, bit for bit, in {self.rows[-1].steps} steps"

    @property
    def verdict(self) -> Verdict:
        """Good when nothing differs."""
        if self.equal:
            return Verdict()
        who, before = self.replayed_by["name"], self.recorded_by["board"]
        parts = ", ".join(f"{row.differing} of {row.values} {_PLURALS[row.what]}" for row in self.rows if row.differing)
        return Verdict((f"{who} differs from what {before} computed when this was recorded: {parts}",))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; docs/json.md explains the keys."""
        rows = [asdict(row) for row in self.rows]
        return {"schema": SCHEMA, **asdict(self), "rows": rows, "equal": self.equal, "verdict": self.verdict.to_dict()}
