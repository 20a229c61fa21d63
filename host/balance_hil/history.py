"""Results over time: one row for each run, soak, evaluation, comparison, verification and HIL suite, in a SQLite database.

Beside the recordings; several processes write at once. A failure to write is a warning and never changes a verdict.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import sqlite3
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from balance_hil import __version__
from balance_hil.errors import HistoryError, UsageError
from balance_hil.files import parse_json

VARIABLE = "HIL_HISTORY"  # "off", or a file
FILE = Path("recordings") / "history.db"
MOST_ROWS = 50_000  # the oldest go
_BUSY_TIMEOUT_S = 10.0
_APPLICATION_ID = 0x4849_4C31
_VERSION = 1
_MOST_TEXTS, _LONGEST_TEXT = 50, 500
_MOST_NUMBERS = 500
_LONGEST_VALUE = 1 << 20  # bytes of one in the database
_GIT_TIMEOUT_S = 5.0
_USUAL = ("success_rate", "success_rate_b", "passed", "caught", "differing", "failed")
_COUNTS = ("late", "lost")  # they come and go, and are limited by the verdict
METRIC_TURN = 0.1  # share of the value before by which a metric has turned
TIMING_TURN = 0.5  # a round trip depends on what else the computer does


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row. "" or None where something is unknown or does not apply."""

    command: str  # run, soak, evaluate, compare, verify, or pytest for a HIL suite
    variant: str = ""  # what else makes results comparable: clock, environment, runtime, faults
    bundle: str = ""
    bundle_id: str = ""
    board: str = ""
    engine: str = ""
    firmware: str = ""  # commit of its image
    good: bool
    reasons: Sequence[str] = ()  # against it
    metrics: Mapping[str, float] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)  # round_trip_p50_us, round_trip_p99_us, late, lost
    flaky: Sequence[str] = ()  # tests that passed only when they were repeated
    commit: str = ""  # of the repository in the current folder, "+" appended with local changes
    host_version: str = __version__
    time_s: float = 0.0  # Unix time of its end


@dataclass(frozen=True)
class Turn:
    """A result unlike the one before in its series, and what else is not as it was then."""

    result: Result
    what: str  # "PASS to FAIL: ...", or the metric with both values
    changed: Sequence[str]  # "bundle 21ff... to 9a0b..."


_COLUMNS = tuple(each.name for each in fields(Result))
_JSON = ("reasons", "metrics", "timing", "flaky")
_TYPES = {"good": "INTEGER", "time_s": "REAL"}
_TABLE = (
    "CREATE TABLE IF NOT EXISTS results (id INTEGER PRIMARY KEY, "
    + ", ".join(f"[{name}] {_TYPES.get(name, 'TEXT')} NOT NULL" for name in _COLUMNS)
    + ")"
)


def database() -> Path | None:
    """The database of the current folder, or what $HIL_HISTORY names; None: switched off."""
    given = os.environ.get(VARIABLE, "")
    return None if given == "off" else Path(given) if given else FILE


def required_database() -> Path:
    """The database. Raises UsageError where history is switched off."""
    path = database()
    if path is None:
        raise UsageError(f"{VARIABLE} is off", f"unset {VARIABLE}, or let it name a database: {VARIABLE}={FILE}")
    return path


# --- writing --------------------------------------------------------------------------------------------------------------


def append(result: Result, path: Path | None = None) -> None:
    """Adds a row, with the time and the commit of now. Warns where that fails; does nothing where history is switched off."""
    path = path or database()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        row = asdict(result) | {"time_s": result.time_s or time.time(), "commit": result.commit or current_commit()}
        row = {name: json.dumps(_bounded(value)) if name in _JSON else value for name, value in row.items()}
        with _open(path) as connection:
            names = ", ".join(f"[{name}]" for name in _COLUMNS)
            connection.execute(
                f"INSERT INTO results ({names}) VALUES ({', '.join('?' * len(_COLUMNS))})",  # noqa: S608  # names of fields
                [row[name] for name in _COLUMNS],
            )
            connection.execute("DELETE FROM results WHERE id <= (SELECT max(id) FROM results) - ?", [MOST_ROWS])
    except (OSError, sqlite3.Error, HistoryError) as exc:
        warnings.warn(f"the result was not added to {path}: {exc}", stacklevel=2)


def _bounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(list(_finite(value).items())[:_MOST_NUMBERS])
    return [str(each)[:_LONGEST_TEXT] for each in value[:_MOST_TEXTS]]


def _finite(numbers: Mapping[Any, Any]) -> dict[str, float]:
    return {str(k)[:_LONGEST_TEXT]: float(v) for k, v in numbers.items() if v is not None and math.isfinite(v)}


def current_commit() -> str:
    """Of the repository in the current folder, 12 hex digits, "+" appended with local changes; "" outside of one."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@contextlib.contextmanager
def _open(path: Path, *, write: bool = True) -> Iterator[sqlite3.Connection]:
    """The database in one transaction. Raises HistoryError, sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        connection.execute("PRAGMA trusted_schema=OFF")
        try:
            connection.execute("BEGIN")  # somebody may make the database just now
            ours, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
            empty = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            connection.execute("COMMIT")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as exc:
            raise _damaged(path, str(exc)) from exc
        if not empty and ours != _APPLICATION_ID:
            raise _damaged(path, "it holds something else")
        if version > _VERSION:
            raise HistoryError(
                f"{path} was written by a later version of balance_hil", "update balance_hil, or name another file"
            )
        if write:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")  # a transaction that reads first and then writes would not wait for others
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_VERSION}")
            connection.execute(_TABLE)
        else:
            connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.OperationalError. SQLite itself does not wait here for others who make the database at the same time."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _damaged(path: Path, why: str) -> HistoryError:
    return HistoryError(f"{path} is not a results database, or it is damaged: {why}", "set it aside: hil history --set-aside")


# --- reading --------------------------------------------------------------------------------------------------------------


def read(
    path: Path, *, bundle: str | None = None, board: str | None = None, command: str | None = None, last: int | None = None
) -> list[Result]:
    """Rows, oldest first.

    Args:
        path: the database.
        bundle: only of the bundle with this name or id.
        board: only of this board.
        command: only of this command.
        last: only so many of each series; see ``series``.

    Raises:
        HistoryError: there is no database, or it is damaged.
    """
    if not path.is_file():
        raise HistoryError(f"there are no results yet: no {path}", "run something, for example: hil run ppo")
    wanted = {"(bundle = ? OR bundle_id = ?)": bundle, "board = ?": board, "command = ?": command}
    given = {clause: value for clause, value in wanted.items() if value is not None}
    values = [value for clause, value in given.items() for _ in range(clause.count("?"))]
    where = f" WHERE {' AND '.join(given)}" if given else ""
    names = ", ".join(f"[{name}]" for name in _COLUMNS)
    try:
        with _open(path, write=False) as connection:
            rows = connection.execute(f"SELECT {names} FROM results{where} ORDER BY id DESC LIMIT ?", [*values, MOST_ROWS])  # noqa: S608  # names of fields
            newest = rows.fetchall()
    except sqlite3.OperationalError as exc:
        raise HistoryError(
            f"{path} cannot be read: {exc}", "check who may read it; set it aside: hil history --set-aside"
        ) from exc
    except sqlite3.Error as exc:
        raise _damaged(path, str(exc)) from exc
    try:
        results = [_result(dict(zip(_COLUMNS, row, strict=True))) for row in reversed(newest)]
    except (ValueError, TypeError, AttributeError) as exc:
        raise _damaged(path, f"a row of it: {exc}") from exc
    if last is None:
        return results
    kept = {id(each) for rows_ in series(results).values() for each in rows_[-last:]}
    return [each for each in results if id(each) in kept]


def _result(row: dict[str, Any]) -> Result:
    lists = {name: tuple(map(str, parse_json(row[name]))) for name in ("reasons", "flaky")}
    numbers = {name: _finite(parse_json(row[name])) for name in ("metrics", "timing")}
    own: dict[str, Any] = {name: str(value) for name, value in row.items() if name not in (*_JSON, *_TYPES)}
    return Result(**own | lists | numbers, good=bool(row["good"]), time_s=float(row["time_s"]))


def series(results: Sequence[Result]) -> dict[tuple[str, str, str, str], list[Result]]:
    """Results that can be compared over time: by command, variant, bundle's name and board."""
    found: dict[tuple[str, str, str, str], list[Result]] = {}
    for each in results:
        found.setdefault((each.command, each.variant, each.bundle, each.board), []).append(each)
    return found


def values(results: Sequence[Result], name: str) -> list[float | None]:
    """A metric or a timing of each result; None where it has none."""
    return [each.metrics.get(name, each.timing.get(name)) for each in results]


def usual(results: Sequence[Result]) -> list[str]:
    """Names of what is shown of a series unless somebody asks for more: how good it was, and how fast."""
    found = [name for name in _USUAL if any(value is not None for value in values(results, name))]
    return found[:1] + [name for name in ("round_trip_p99_us",) if any(value is not None for value in values(results, name))]


def turns(results: Sequence[Result]) -> list[Turn]:
    """Where a verdict flipped or a metric turned within a series, oldest first."""
    found = []
    for each in series(results).values():
        for before, now in itertools.pairwise(each):
            what = []
            if before.good != now.good:
                words = [("PASS" if one.good else "FAIL") for one in (before, now)]
                what.append(f"{words[0]} to {words[1]}" + (f": {'; '.join(now.reasons)}" if now.reasons else ""))
            for numbers, limit in (("metrics", METRIC_TURN), ("timing", TIMING_TURN)):
                was, is_now = getattr(before, numbers), getattr(now, numbers)
                what += [
                    f"{name} {was[name]:.4g} to {is_now[name]:.4g}"
                    for name in is_now
                    if name in was and name not in _COUNTS and abs(is_now[name] - was[name]) > limit * abs(was[name])
                ]
            if what:
                found.append(Turn(now, ", ".join(what), changed(before, now)))
    return sorted(found, key=lambda turn: turn.result.time_s)


def changed(before: Result, now: Result) -> list[str]:
    """What differs between two results besides their numbers."""
    parts = {"bundle_id": "bundle", "firmware": "firmware", "engine": "engine", "commit": "commit", "host_version": "balance_hil"}
    return [
        f"{word} {getattr(before, name) or 'unknown'} to {getattr(now, name) or 'unknown'}"
        for name, word in parts.items()
        if getattr(before, name) != getattr(now, name)
    ]


# --- keeping it small -----------------------------------------------------------------------------------------------------


def prune(path: Path, days: float) -> int:
    """Removes rows that are older; returns how many. Raises HistoryError."""
    read(path, last=1)  # it is there, and whole
    try:
        with _open(path) as connection:
            count = connection.execute("DELETE FROM results WHERE time_s < ?", [time.time() - days * 86400]).rowcount
        vacuum = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        with contextlib.closing(vacuum), contextlib.suppress(sqlite3.OperationalError):  # somebody reads it
            vacuum.execute("VACUUM")
    except sqlite3.Error as exc:
        raise HistoryError(f"{path} cannot be pruned: {exc}", "try again when nothing else writes to it") from exc
    return int(count)


def set_aside(path: Path) -> Path:
    """Renames the database, with what SQLite keeps beside it; returns its new name. Raises HistoryError."""
    if not path.exists():
        raise HistoryError(f"there is no {path}", "nothing is to be done")
    target = next(
        each for number in range(1, 100_000) if not (each := path.with_name(f"{path.stem}-aside-{number}{path.suffix}")).exists()
    )
    try:
        path.rename(target)
        for end in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + end).rename(target.with_name(target.name + end))
    except OSError as exc:
        raise HistoryError(f"cannot rename {path}: {exc.strerror}", "move it by hand") from exc
    return target
