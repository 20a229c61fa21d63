"""Results over time: writing by several processes, reading what may be damaged, trends and what changed."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from balance_hil import history
from balance_hil.errors import HistoryError
from balance_hil.history import Result, append, prune, read, series, set_aside, turns

RUN = {"command": "run", "variant": "lockstep", "bundle": "ppo", "bundle_id": "1" * 12, "board": "native", "good": True}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "recordings" / "history.db"


def test_a_result_comes_back_as_it_was(database: Path) -> None:
    result = Result(
        **RUN | {"good": False}, reasons=["1 of 2 episodes failed"], metrics={"return": 1.5}, timing={"late": 2.0}, flaky=["a::b"]
    )
    append(result, database)
    (row,) = read(database)
    assert (row.good, row.reasons, row.metrics, row.timing, row.flaky) == (
        False,
        ("1 of 2 episodes failed",),
        {"return": 1.5},
        {"late": 2.0},
        ("a::b",),
    )
    assert abs(row.time_s - time.time()) < 3600
    assert row.host_version == history.__version__
    with closing(sqlite3.connect(database)) as opened:
        assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def _write(path: Path, number: int, start) -> None:
    warnings.simplefilter("error")
    history.current_commit = lambda: ""
    start.wait()
    for i in range(20):
        append(Result(**RUN, metrics={"of": number, "i": i}), path)


def test_processes_that_write_at_once_lose_nothing(database: Path) -> None:
    """The database is made by whoever is first."""
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(4)
    processes = [fork.Process(target=_write, args=(database, number, start)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    rows = [(row.metrics["of"], row.metrics["i"]) for row in read(database)]
    assert sorted(rows) == [(number, i) for number in range(4) for i in range(20)]
    assert [i for of, i in rows if of == 2] == list(range(20))


def test_where_it_is_written_and_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value, path in (("", Path("recordings/history.db")), ("off", None), ("/x/y.db", Path("/x/y.db"))):
        monkeypatch.setenv(history.VARIABLE, value)
        assert history.database() == path
    monkeypatch.setenv(history.VARIABLE, "off")
    append(Result(**RUN))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["text", "other", "newer", "folder", "cut", "columns"])
def test_what_cannot_be_written_is_a_warning_and_what_cannot_be_read_an_error(database: Path, kind: str) -> None:
    append(Result(**RUN), database)
    if kind == "text":
        database.write_text("these are no results, but a text that is longer than the header of a database\n" * 9)
    elif kind == "folder":
        database.unlink()
        database.mkdir()
    elif kind == "cut":
        database.write_bytes(database.read_bytes()[:4096] + b"\xff" * 4096)
    else:
        change = {"other": "PRAGMA application_id=5", "newer": "PRAGMA user_version=2", "columns": "DROP TABLE results"}[kind]
        with closing(sqlite3.connect(database)) as opened:
            opened.execute(change)
            if kind == "columns":
                opened.execute("CREATE TABLE results (id INTEGER PRIMARY KEY, time_s TEXT)")
    before = database.read_bytes() if database.is_file() else b""
    with pytest.warns(UserWarning, match=f"the result was not added to {database}: "):
        append(Result(**RUN), database)
    with pytest.raises(HistoryError) as caught:
        read(database)
    assert str(database) in caught.value.message
    assert "hil history --set-aside" in caught.value.hint or kind in ("newer", "folder")
    if kind not in ("folder", "cut", "columns"):
        assert database.read_bytes() == before


def test_a_damaged_database_is_set_aside_on_request_only(database: Path) -> None:
    append(Result(**RUN), database)
    for number in (1, 2):
        database.write_bytes(b"damaged" * 1000)
        database.with_name("history.db-wal").touch()
        assert set_aside(database) == database.with_name(f"history-aside-{number}.db")
        assert not database.exists()
        assert database.with_name(f"history-aside-{number}.db-wal").exists()
    append(Result(**RUN), database)
    assert len(read(database)) == 1
    with pytest.raises(HistoryError, match="there is no "):
        set_aside(database.with_name("nothing.db"))


@pytest.mark.parametrize("value", ["[", "5", '{"a": "x"}', "[" * 999])
def test_a_row_that_something_else_wrote_is_refused(database: Path, value: str) -> None:
    append(Result(**RUN), database)
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("UPDATE results SET metrics = ?", [value])
        opened.commit()
    with pytest.raises(HistoryError, match="a row of it"):
        read(database)


def test_there_is_none_yet(database: Path) -> None:
    with pytest.raises(HistoryError, match="there are no results yet") as caught:
        read(database)
    assert "hil run ppo" in caught.value.hint
    assert not database.parent.exists()


def test_its_size_is_bounded(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_ROWS", 3)
    for i in range(5):
        append(Result(**RUN, metrics={"i": i}), database)
    assert [row.metrics["i"] for row in read(database)] == [2, 3, 4]
    append(Result(**RUN, reasons=["x" * 9999] * 999, metrics={str(i): i for i in range(9999)} | {"bad": float("nan")}), database)
    row = read(database)[-1]
    assert (len(row.reasons), len(row.reasons[0]), len(row.metrics)) == (50, 500, 500)


def test_old_results_are_pruned(database: Path) -> None:
    for days in (40, 20, 0):
        append(Result(**RUN, metrics={"days": days}, time_s=time.time() - days * 86400), database)
    assert prune(database, 30) == 1
    assert [row.metrics["days"] for row in read(database)] == [20, 0]


def test_only_what_was_asked_for(database: Path) -> None:
    for board in ("left", "right", "left"):
        append(Result(**RUN | {"board": board}), database)
    append(Result(**RUN | {"command": "soak", "bundle": "sac", "bundle_id": "2" * 12}), database)
    assert [row.board for row in read(database, board="left")] == ["left", "left"]
    assert [row.bundle for row in read(database, bundle="2" * 12)] == ["sac"]
    assert len(read(database, bundle="ppo", command="run", board="right")) == 1
    assert [row.board for row in read(database, last=1)] == ["right", "left", "native"]
    assert [key[0] for key in series(read(database))] == ["run", "run", "soak"]


def result(**changes: object) -> Result:
    return Result(**RUN | {"firmware": "f1", "engine": "tflm 1", "commit": "c1", "metrics": {"return": 100.0}} | changes)  # type: ignore[arg-type]


def test_a_turn_is_said_with_everything_else_that_changed() -> None:
    rows = [
        result(),
        result(metrics={"return": 109.0}),  # not enough
        result(metrics={"return": 80.0}, bundle_id="2" * 12, firmware="f2", commit="c2", host_version="9"),
        result(metrics={"return": 80.0}, bundle_id="2" * 12, good=False, reasons=["it fell"]),
        result(board="another", metrics={"return": 1.0}),
    ]
    found = turns([*rows])
    assert [turn.what for turn in found] == ["return 109 to 80", "PASS to FAIL: it fell"]
    assert list(found[0].changed) == [
        "bundle 111111111111 to 222222222222",
        "firmware f1 to f2",
        "commit c1 to c2",
        f"balance_hil {history.__version__} to 9",
    ]


def test_a_timing_turns_by_more_than_a_metric_and_misses_do_not() -> None:
    times = [{"round_trip_p99_us": value, "late": late} for value, late in ((100.0, 0.0), (140.0, 9.0), (220.0, 0.0))]
    assert [turn.what for turn in turns([result(timing=timing) for timing in times])] == ["round_trip_p99_us 140 to 220"]


def test_the_commit_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert history.current_commit() == ""
    monkeypatch.setenv("PATH", "")
    assert history.current_commit() == ""
