"""Several trainings side by side: one that fails takes no other with it, and the table says what happened."""

import json
import re
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from balance_hil.errors import UsageError
from balance_hil.farm.campaign import Campaign
from balance_hil.training import results
from balance_hil.training.matrix import Run, run_matrix
from balance_hil.training.request import TrainingRequest

sys.path.append(str(Path(__file__).parent))  # the processes get it too

from matrix_job import FIGURES, job


def requests_for(folder, seeds, algorithm="ppo"):
    return [
        TrainingRequest(algorithm=algorithm, environment="balance/Balance-v0", output=folder / f"{algorithm}-{seed}", seed=seed)
        for seed in seeds
    ]


def test_runs_that_fail_are_named_and_the_others_finish(tmp_path):
    seen = []
    runs = run_matrix(
        requests_for(tmp_path, (0, 1, 2, 3, 5)), job, processes=3, on_change=lambda r: seen.append([x.state for x in r])
    )
    assert [run.state for run in runs] == ["done", "failed", "failed", "failed", "done"]
    assert runs[0].result == FIGURES
    assert runs[1].reason == "training diverged after 5 steps: a NaN"
    assert runs[2].reason.startswith("ValueError: a bug; see ")
    assert "Traceback" in runs[2].log.read_text()
    assert runs[3].reason == f"its process ended with status -9; see {runs[3].log}"
    assert runs[3].log.read_text() == "output before the end\n"
    assert max(states.count("running") for states in seen) <= 3


def test_an_interrupt_ends_running_and_waiting_runs_and_keeps_the_finished(tmp_path):
    ready = tmp_path / "ready"
    before = signal.getsignal(signal.SIGINT)

    def interrupt_when_ready(runs):
        if ready.exists() and runs[0].state == "done":
            ready.unlink()
            signal.raise_signal(signal.SIGINT)

    runs = run_matrix(
        requests_for(tmp_path, (0, 4, 4, 4)), partial(job, ready=ready), processes=2, on_change=interrupt_when_ready
    )
    assert [run.state for run in runs] == ["done", "interrupted", "interrupted", "interrupted"]
    assert signal.getsignal(signal.SIGINT) is before


def finished(algorithm, seed, **changes):
    request = TrainingRequest(algorithm=algorithm, environment="balance/Balance-v0", output=None, seed=seed)
    return Run(request, state="done", result=FIGURES | changes)


def test_the_table_has_median_and_worst_and_names_what_is_missed(tmp_path):
    lost = Run(
        TrainingRequest(algorithm="sac", environment="balance/Balance-v0", output=None, seed=9), state="failed", reason="a | NaN"
    )
    runs = [
        finished("ppo", 0, wall_s=10.0, int8_bytes=5000),
        finished("ppo", 1, wall_s=30.0, int8_bytes=5000),
        finished("ppo", 2, wall_s=20.0, metrics={"return": 17.0, "action_rate": 0.44}, success_rate=0.98, good=False),
        lost,
    ]
    document = results.document(runs, {"cores": 2})
    results.write(tmp_path, document)
    assert json.loads((tmp_path / "results.json").read_text()) == document
    assert document["runs"][0]["metrics"]["return"] == 5000.0
    summary = document["algorithms"]["ppo"]
    assert (summary["runs"], summary["finished"], summary["good"]) == (3, 3, 2)
    assert summary["metrics"]["wall_s"] == {"median": 20.0, "worst": 30.0}
    assert summary["metrics"]["success_rate"] == {"median": 1.0, "worst": 0.98}
    text = (tmp_path / "results.md").read_text()
    assert "| ppo | 2 of 3 | 100% / 98% | 20 / 30 | 1,000 | 5e+03 / 17 | 0.03 / 0.44 | 5,000 |" in text
    assert re.search(r"\| ppo \| 2 \|.*misses a target \|", text)
    assert re.search(r"\| sac \| 9 \|.*failed: a / NaN \|", text)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "changes",
    [
        {"good": False},
        {"int8_bytes": 8193},
        {"int8_success_rate": 0.9},
    ],
)
def test_what_counts_as_good(changes):
    assert results.good(FIGURES | {"int8_bytes": 8192, "int8_success_rate": 1.0})
    assert not results.good(FIGURES | {"int8_bytes": 8192, "int8_success_rate": 1.0} | changes)


def test_seeds_are_read():
    from balance_hil.cli.train_matrix import parse_seeds

    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("7,0-2") == [7, 0, 1, 2]
    for text in ("", "x", "3-1", "1,1", "-1"):
        with pytest.raises(UsageError, match="not a list of different numbers"):
            parse_seeds(text)


def run_cli(*arguments):
    from balance_hil.cli.train import command

    return CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which algorithm?"),
        (("ppo", "--all"), "exclude each other"),
        (("ppo", "--seeds", "0-1", "--seed", "1"), "for one training"),
        (("ppo", "--seeds", "0-1", "--resume", "nowhere"), "not the folder of several trainings"),
        (("ppo", "--cluster", "local"), "for several trainings"),
        (("--all", "--config", "x.yaml"), "for one algorithm"),
        (("pppo", "--seeds", "0"), "did you mean 'ppo'"),
    ],
)
def test_what_does_not_go_together_is_named(arguments, message):
    assert message in str(run_cli(*arguments).exception)


def test_the_command_trains_in_processes_and_writes_the_table(tiny_config, tmp_path):
    folder = tmp_path / "matrix"
    outcome = run_cli("ppo", "--seeds", "0-1", "--config", tiny_config, "--steps", 256, "-o", folder, "--processes", 2, "--json")
    document = json.loads(outcome.stdout)
    assert [(run["seed"], run["state"], run["good"]) for run in document["runs"]] == [(0, "done", False), (1, "done", False)]
    assert document["runs"][0]["steps"] == 256
    assert outcome.exit_code == 1
    assert json.loads((folder / "results.json").read_text()) == document
    trained = (folder / "ppo-0" / "policy.zip").stat().st_mtime_ns
    again = run_cli("ppo", "--seeds", "0-1", "--config", tiny_config, "--steps", 256, "--resume", folder, "--json")
    assert json.loads(again.stdout)["runs"] == document["runs"]
    assert (folder / "ppo-0" / "policy.zip").stat().st_mtime_ns == trained


@pytest.mark.slow
def test_a_run_that_fails_on_a_cluster_is_named_and_is_not_kept(tmp_path):
    campaign = Campaign(cluster="local", results=tmp_path / "tasks")
    runs = run_matrix(requests_for(tmp_path, (0, 1)), job, processes=1, campaign=campaign)
    assert [(run.state, run.reason) for run in runs] == [("done", ""), ("failed", "training diverged after 5 steps: a NaN")]
    assert campaign.kept(runs[0].task)[0]["figures"] == FIGURES
    assert campaign.kept(runs[1].task) is None
