"""hil history, and the rows that commands add."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from balance_hil import cli, history
from balance_hil.history import Result, append, read

RUN = {"command": "run", "bundle": "ppo", "board": "native"}


@pytest.fixture
def hil(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(history.VARIABLE, "history.db")
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hil", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as exited:
            code = int(exited.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def rows() -> list[Result]:
    return read(Path("history.db"))


def fill(*values: float) -> None:
    for number, value in enumerate(values):
        good = value > 0
        reasons = [] if good else ["it \x1b[2J fell"]
        append(Result(**RUN, good=good, reasons=reasons, metrics={"return": value}, bundle_id=f"{number}"), Path("history.db"))


def test_trends_and_what_changed(hil) -> None:
    fill(1, 2, 3, -4)
    code, out, _ = hil("history", "--metric", "return")
    assert code == 0
    assert out.splitlines()[1].split()[:8] == ["run", "ppo", "native", "✓✓✓✗", "return", "▆▇█▁", "-4", "-1.33"]
    assert r"PASS to FAIL: it \x1b[2J fell, return 3 to -4; changed: bundle 2 to 3" in out
    document = json.loads(hil("history", "--json", "--last", "2")[1])
    assert [each["metrics"]["return"] for each in document["results"]] == [3, -4]
    assert document["turns"][0]["changed"] == ["bundle 2 to 3"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--metric", "retrun"), 2, "no result has the metric 'retrun', did you mean 'return'?"),
        (("--board", "nowhere"), 0, "no result is like that"),
        (("--file", "nothing.db"), 3, "there are no results yet: no nothing.db"),
        (("--prune", "0"), 0, "removed 2 results"),
        (("--set-aside",), 0, "renamed to history-aside-1.db"),
    ],
)
def test_what_else_it_says(hil, arguments: tuple[str, ...], status: int, message: str) -> None:
    fill(1, 2)
    code, _, err = hil("history", *arguments)
    assert (code, message in err) == (status, True), err


def test_a_database_that_is_none_is_refused_and_kept(hil) -> None:
    Path("history.db").write_text("no results " * 1000)
    code, _, err = hil("history")
    assert code == 3
    assert "history.db is not a results database, or it is damaged" in err
    assert "hint:  set it aside: hil history --set-aside" in err
    assert Path("history.db").read_text().startswith("no results")


def test_it_is_switched_off(hil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(history.VARIABLE, "off")
    code, _, err = hil("history")
    assert code == 2
    assert "HIL_HISTORY is off" in err


LOCKSTEP = ("--engine", "int8", "--clock", "lockstep", "--steps", "20", "--no-record")


def test_run_and_evaluate_add_a_row_unless_they_are_told_not_to(hil, ppo_bundle) -> None:
    ppo = str(ppo_bundle.path)
    assert hil("run", ppo, *LOCKSTEP)[0] == 0
    hil("evaluate", ppo, "--runtime", "board", "--engine", "int8", "--episodes", "1", "--steps", "20")
    run, evaluate = rows()
    assert (run.command, run.bundle, run.bundle_id, run.board, run.good) == ("run", "ppo", ppo_bundle.id, "native", True)
    assert run.variant == "lockstep, balance/Balance-v0, 1 episode"
    assert run.engine.startswith("int8")
    assert run.firmware
    assert run.metrics["success_rate"] == 1.0
    assert set(run.timing) == {"late", "lost"}, "in lockstep nothing has to be in time"
    assert (evaluate.command, evaluate.board, evaluate.variant) == ("evaluate", "native", "board, balance/Balance-v0, 1 episode")
    hil("run", ppo, *LOCKSTEP, "--no-history")
    assert len(rows()) == 2


def test_a_failure_to_write_changes_no_verdict(hil, monkeypatch: pytest.MonkeyPatch, ppo_bundle) -> None:
    monkeypatch.setenv(history.VARIABLE, "/proc/nowhere/history.db")
    code, out, err = hil("run", str(ppo_bundle.path), *LOCKSTEP, "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["verdict"]["good"]
    assert "warning: the result was not added to /proc/nowhere/history.db" in err


def test_a_board_that_does_not_answer_is_a_result_and_a_wrong_option_is_none(hil, ppo_bundle) -> None:
    drop = ("--fault", "drop:rate=1", "--seconds", "1", "--engine", "int8", "--no-record")
    assert hil("run", str(ppo_bundle.path), *drop)[0] != 0
    (row,) = rows()
    assert not row.good
    assert row.reasons
    assert hil("run", str(ppo_bundle.path), "--engine", "onnx")[0] == 2
    assert len(rows()) == 1
