"""Searching hyper-parameters: the study is the same whatever interrupts it, and what is not one is refused."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from balance_hil.cli.train_tune import run_trial
from balance_hil.errors import ConfigError, UsageError
from balance_hil.evaluating.robustness import Condition
from balance_hil.training.tuning import Search, Study, distributions, objective, read_search

SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "a.b": {"choices": [[0, 1], [2, 3]]},
    "n": {"low": 1, "high": 9},
}
SEARCH = Search(space=SPACE, objective={"failed": 1}, at_once=3)
FIRST = {"learning_rate": 1e-3, "a.b": [2, 3], "n": 4}


def study(folder, search=SEARCH, about=None, seed=0):
    return Study(folder, search, about or {"policy": "x"}, seed, FIRST)


def fake(trial):
    return abs(trial.values["n"] - 5) + trial.values["learning_rate"]


def run(opened, total, die_at=None):
    while waiting := opened.next_trials(total):
        for trial in waiting:
            if trial.number == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            opened.tell(trial, None if trial.number == 1 else fake(trial))


def outcome(opened):
    return [(trial.number, dict(trial.values), trial.state, trial.objective) for trial in opened.trials()]


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    run(study(whole), 8)
    killed = tmp_path / "killed"
    killed.mkdir()
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_tuning as t, pathlib; "
    code += f"t.run(t.study(pathlib.Path({str(killed)!r})), 8, die_at=4)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    again = study(killed)
    assert len([each for each in again.trials() if each.state == "running"]) == 2  # 4 and 5 of the group 3 to 5
    run(again, 8)
    assert outcome(again) == outcome(study(whole))
    assert outcome(again)[0][1] == FIRST
    assert outcome(again)[1][2:] == ("fail", None)
    assert again.best().objective == min(each[3] for each in outcome(again) if each[3] is not None)


@pytest.mark.slow
def test_another_seed_is_another_search(tmp_path):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        run(study(tmp_path / str(seed), seed=seed), 2)
    assert outcome(study(tmp_path / "0"))[1] != outcome(study(tmp_path / "1", seed=1))[1]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"about": {"policy": "y"}}, "another policy"), ({"seed": 1}, "another seed"),
     ({"search": replace(SEARCH, episodes=3)}, "another search")],
)  # fmt: skip
def test_a_study_of_something_else_is_not_continued(tmp_path, change, named):
    study(tmp_path)
    with pytest.raises(UsageError, match=named) as caught:
        study(tmp_path, **change)
    assert "without --resume" in caught.value.hint


def test_a_study_of_another_version_is_not_continued(tmp_path, monkeypatch):
    study(tmp_path)
    monkeypatch.setattr("balance_hil.training.tuning.__version__", "9.9")
    with pytest.raises(UsageError, match="another version of balance_hil"):
        study(tmp_path)


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_damaged_study_is_refused(tmp_path, damage):
    study(tmp_path)
    file = tmp_path / "study.db"
    content = file.read_bytes()
    file.write_bytes(b"no database" * 99 if damage == "text" else content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"study\.db cannot be used"):
        study(tmp_path)


@pytest.mark.parametrize(
    "entry", [3, {}, {"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}, {"choices": []}, {"choices": 3},
              {"low": "x", "high": 1}, {"low": 0, "high": 1, "step": 1}],
)  # fmt: skip
def test_a_range_that_is_none_is_named(entry):
    with pytest.raises(ConfigError, match="of rate"):
        distributions({"rate": entry})


@pytest.mark.parametrize(
    ("text", "named"),
    [("objective: {}", "space"), ("space: {}\nobjective: {}", "to search"), ("space: {a: 1}\nobjective: {}", "to minimize"),
     ("space: {a: 1}\nobjective: {a: x}", "'x'"), ("space: {a: 1}\nobjective: {}\nepisodes: 0", "episodes")],
)  # fmt: skip
def test_a_file_that_is_no_space_is_refused(tmp_path, text, named):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_search(tmp_path / "space.yaml")


def test_the_objective_counts_better_metrics_with_their_sign():
    search = replace(SEARCH, objective={"failed": 10, "return": 1, "error": 2})
    cells = [{"failed": 1, "episodes": 4, "return": 5.0, "error": 3.0}, {"failed": 0, "episodes": 4, "return": 1.0, "error": 0.0}]
    assert objective(search, {"return": "higher", "error": "lower"}, cells) == 2.5 - 5 + 6 - 1


def test_the_worst_change_from_the_start_counts_in_its_own_size():
    search = replace(SEARCH, objective={"failed": 1, "return": 1, "error": 1}, against_start=True)
    start = [
        {"condition": "a", "failed": 2, "episodes": 4, "return": 5.0, "error": 2.0},
        {"condition": "b", "failed": 0, "episodes": 4, "return": -1.0, "error": 8.0},
    ]
    better = {"return": "higher", "error": "lower"}
    assert objective(search, better, start, start) == 0

    def worst(condition, **changed):
        return objective(search, better, [each | (changed if each["condition"] == condition else {}) for each in start], start)

    assert worst("a", error=2.5) == worst("b", error=10.0) == 0.25
    assert worst("a", failed=3) == worst("b", **{"return": -1.25}) == 0.25
    assert worst("a", failed=1, error=1.0, **{"return": 9.0}) == 0, "as good as the start under b"
    assert objective(search, better, [start[0] | {"failed": 1, "error": 1.9, "return": 6.0}], start) == pytest.approx(-0.05)
    assert math.isnan(worst("b", error=math.nan))


def test_a_trial_that_cannot_be_trained_says_why(tiny, tmp_path):
    request = replace(tiny, config=None, output=tmp_path / "trial-0")
    result = run_trial(request, {"n_steps": 0}, (Condition("nominal", "nominal", {}),), range(2), 10)
    assert result["cells"] == []
    assert "hyper-parameter" in result["reason"]
    json.dumps(result)
