"""``hil train --tune``: a search of tiny trainings from the command line."""

import json

import click
import pytest
from click.testing import CliRunner

from balance_hil.cli import hil
from balance_hil.errors import UsageError

CONFIG = """
steps: 64
n_envs: 2
n_steps: 16
batch_size: 32
n_epochs: 1
episode_steps: 20
policy_layers: [8]
value_layers: [8]
evaluation: {every_steps: 64, check_episodes: 1, episodes: 1, stop_when_good: false, limits: {}, best_by: return}
"""
SPACE = """
conditions: [nominal, all]
episodes: 2
judge_episodes: 3
episode_steps: 20
objective: {failed: 1, speed_error_rms_rad_s: 0.1}
space:
  learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}
  training_options.reward.yaw: {low: 0.1, high: 1.0}
"""


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "space.yaml").write_text(SPACE)
    return [
        "train",
        "ppo",
        "--config",
        f"{tmp_path}/config.yaml",
        "--space",
        f"{tmp_path}/space.yaml",
        "--processes",
        "1",
        "--json",
    ]


def invoke(*arguments):
    return CliRunner().invoke(hil, list(arguments), standalone_mode=False)


@pytest.mark.slow
def test_a_search_is_judged_on_unseen_episodes_and_continued(arguments, tmp_path):
    folder = tmp_path / "study"
    result = invoke(*arguments, "--tune", "2", "-o", str(folder))
    assert isinstance(result.exception, SystemExit), result.output
    document = json.loads(result.stdout)
    assert [trial["state"] for trial in document["trials"]] == ["complete", "complete"]
    assert document["judged"]["episodes"] == 3
    assert {cell["condition"] for cell in document["judged"]["cells"]} > {"nominal", "beyond"}
    assert (folder / f"trial-{document['best']['number']}.yaml").is_file()
    assert not (folder / "trial-2").exists()
    tasks = {path: path.stat().st_mtime_ns for path in (folder / "tasks").iterdir()}
    again = json.loads(invoke(*arguments, "--tune", "3", "--resume", str(folder)).stdout)
    assert again["trials"][:2] == document["trials"]
    assert len(again["trials"]) == 3
    assert all(path.stat().st_mtime_ns == when for path, when in tasks.items())

    # The winner of this study as the policy that another search starts from, and is compared with.
    (tmp_path / "space.yaml").write_text(SPACE + "against_start: true\n")
    best = folder / f"trial-{document['best']['number']}"
    refused = invoke(*arguments, "--tune", "1", "-o", str(tmp_path / "next"), "--init-from", str(best))
    assert "the name of a trial" in refused.exception.message
    best.rename(tmp_path / "winner")
    result = invoke(*arguments, "--tune", "1", "-o", str(tmp_path / "next"), "--init-from", str(tmp_path / "winner"))
    judged = json.loads(result.stdout)["judged"]
    assert [each["name"] for each in judged["policies"]] == ["winner", "trial-0"]
    assert judged["objective"]["winner"] == 0
    assert judged["objective"]["trial-0"] != 0


def test_an_interrupted_search_says_how_it_is_continued(arguments, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("balance_hil.cli.train_tune._search", interrupted)
    result = invoke(*arguments, "--tune", "1", "-o", str(tmp_path / "study"))
    assert isinstance(result.exception, KeyboardInterrupt | click.Abort)
    assert f"interrupted; the same command with --resume {tmp_path}/study continues" in result.stderr.replace("\n", " ")


def test_an_interrupted_campaign_that_keeps_its_results_says_so(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("balance_hil.cli.evaluate.run_suite", interrupted)
    (tmp_path / "kept").mkdir()
    words = ["evaluate", "ppo", "--robustness"]
    assert "--resume" in invoke(*words, "--resume", str(tmp_path / "kept")).stderr
    assert "interrupted" not in invoke(*words).stderr


def test_a_comparison_with_the_start_needs_one(arguments, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE + "against_start: true\n")
    refused = invoke(*arguments, "--tune", "1", "-o", str(tmp_path / "study"))
    assert isinstance(refused.exception, UsageError)
    assert "--init-from" in refused.exception.hint


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--tune", "2", "--seeds", "0-1"], "one training"),
        ([], "for a search"),
        (["--tune", "2", "--resume", "nowhere"], "of a study"),
        (["--tune", "2", "--cluster", "nowhere"], "no address"),
    ],
)
def test_wrong_usage_is_named(arguments, tmp_path, more, named):
    result = invoke(*arguments, "--runs", str(tmp_path / "runs"), *more)
    assert isinstance(result.exception, UsageError)
    assert named in result.exception.message


def test_a_search_needs_a_trial(arguments):
    assert "not in the range x>=1" in str(invoke(*arguments, "--tune", "0").exception)
