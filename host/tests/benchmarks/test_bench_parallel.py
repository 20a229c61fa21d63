import json
import subprocess

import pytest

from balance_hil.benchmarks import parallel
from balance_hil.errors import HarnessError

from .. import contract


@pytest.mark.slow
def test_boards_one_after_the_other_and_at_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in {"BOARDS": ("native", "native"), "TURNS": 1, "SECONDS": 0.1, "CLOCKS": ("realtime",)}.items():
        monkeypatch.setattr(parallel, name, value)
    rows = parallel.run()
    contract.check("bench", {"schema": "balance_hil/bench@2", "name": "parallel", "rows": rows})
    assert [row["metric"] for row in rows] == ["wall time", "late and lost replies", "failed episodes"] * 2
    one, at_once = rows[0], rows[3]
    assert at_once["ratio"] == pytest.approx(at_once["value"] / one["value"])
    assert at_once["baseline"] == one["what"]
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_ratio_where_episodes_failed_for_want_of_time(monkeypatch):
    turns = iter([(0.0, 0, 0), (6.0, 0, 0), (2.0, 400, 1)])
    monkeypatch.setattr(parallel, "_run", lambda *arguments: next(turns))
    monkeypatch.setattr(parallel, "TURNS", 1)
    monkeypatch.setattr(parallel, "CLOCKS", ("realtime",))
    rows = parallel.run()
    assert [(row["metric"], row["value"]) for row in rows[3:]] == [
        ("wall time", 2.0), ("late and lost replies", 400), ("failed episodes", 1),
    ]  # fmt: skip
    assert not any("ratio" in row and row["ratio"] is not None for row in rows)


def test_a_board_that_does_not_work_is_an_error(monkeypatch):
    monkeypatch.setattr(parallel, "BOARDS", ("nowhere",))
    with pytest.raises(HarnessError, match="unknown board 'nowhere'"):
        parallel.run()


def test_an_error_beside_a_failed_episode_is_an_error(monkeypatch):
    runs = [{"error": "the board is gone"}, {"episodes": [{"failed": True}], "late": 0, "lost": 0}]
    done = subprocess.CompletedProcess((), 1, json.dumps({"runs": runs}), "error: the board is gone")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)
    with pytest.raises(HarnessError, match="the board is gone"):
        parallel.run()
