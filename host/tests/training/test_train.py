"""Tiny trainings from request to files, and everything that ends one early."""

import errno
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from balance_hil.envs import spec_for
from balance_hil.envs.batch import BalanceBatch
from balance_hil.envs.task import REWARD_TERMS
from balance_hil.errors import (
    CheckpointError,
    ConfigError,
    HarnessError,
    SimulationDivergedError,
    TrainingError,
    UnknownEnvironmentError,
    UsageError,
)
from balance_hil.training.checkpoints import load
from balance_hil.training.trainer import train

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")


def test_a_training_leaves_a_policy_and_its_record(finished):
    request, result, _ = finished
    assert sorted(p.name for p in request.output.iterdir()) == ["policy.zip", "training.json"]
    values = json.loads((request.output / "training.json").read_text())
    assert (values["algorithm"], values["environment"], values["seed"]) == ("ppo", "Env01-v1", 7)
    assert 0 < values["steps"] <= 1024
    assert values["wall_s"] > 0
    assert values["evaluation_wall_s"] > 0
    assert values["survival"] == values["evaluation"]["survived"] / 3
    assert values["evaluation"]["first_seed"] == 10_000
    assert values["hyper_parameters"]["policy_layers"] == [8]
    assert values["spec"] == json.loads(json.dumps(spec_for("Env01-v1").to_dict()))
    assert {"torch", "stable-baselines3", "mujoco"} <= set(values["versions"])
    assert not result.interrupted


def test_the_latest_checkpoint_is_kept_apart(finished):
    _, result, _ = finished
    assert load(result.checkpoint).record.steps == 1024


def test_progress_tells_steps_survival_and_return(finished):
    _, _, progress = finished
    assert {p.phase for p in progress} == {"starting", "training", "evaluating"}
    assert [p.steps for p in progress] == sorted(p.steps for p in progress)
    assert progress[-1].total_steps == 1024
    assert progress[-1].survival is not None
    assert any(p.episode_return for p in progress)


def test_tensorboard_has_every_reward_term_and_the_evaluation(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[1].tensorboard))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"reward/{term}" for term in REWARD_TERMS} <= tags
    assert {"evaluation/survival", "rollout/ep_rew_mean", "train/loss"} <= tags
    assert events.Scalars("reward/alive")[0].value == pytest.approx(0.2)


def test_the_same_seed_gives_the_same_policy_and_another_seed_another(tiny):
    short = replace(tiny, steps=256)
    first, again, other = train(short), train(short), train(replace(short, seed=8))
    assert first.record.policy_sha256 == again.record.policy_sha256 != other.record.policy_sha256
    assert first.record.evaluation == again.record.evaluation


def test_every_run_has_a_folder_of_its_own(tiny):
    first, second = train(replace(tiny, steps=256)), train(replace(tiny, steps=256))
    assert first.tensorboard.parent.name == "tiny_1"
    assert second.tensorboard.parent.name == "tiny_2"


def test_training_stops_when_survival_is_full(tiny, monkeypatch):
    from balance_hil.training import evaluation

    short = evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", lambda *args, **kwargs: short(*args, max_steps=3, **kwargs))
    handler = signal.getsignal(signal.SIGINT)
    result = train(replace(tiny, steps=100_000))
    assert signal.getsignal(signal.SIGINT) is handler
    assert result.record.survival == 1.0
    assert result.record.steps == 512


def test_the_best_policy_is_kept(tiny, monkeypatch):
    from balance_hil.training.session import Evaluator

    survivals = iter([0.5, 0.9, 0.0])  # at 512, 768 and, at the end, 1024 steps
    check, confirm = Evaluator.check, Evaluator.confirm
    monkeypatch.setattr(Evaluator, "check", lambda *args: replace(check(*args), survival=next(survivals)))
    confirmed = []

    def observed(evaluator, model):
        confirmed.append({name: value.numpy().copy() for name, value in model.policy.state_dict().items()})
        return replace(confirm(evaluator, model), survival=2 / 3)

    monkeypatch.setattr(Evaluator, "confirm", observed)
    config = tiny.config.parent / "more_checks.yaml"
    config.write_text(
        tiny.config.read_text().replace("every_steps: 512", "every_steps: 256").replace("from_steps: 0", "from_steps: 512")
    )
    result = train(replace(tiny, config=config))
    assert result.record.steps == 768
    assert result.record.survival == pytest.approx(2 / 3)
    assert len(confirmed) == 1
    for name, value in load(result.output).parameters()["policy"].items():
        np.testing.assert_array_equal(confirmed[0][name], value.numpy())


def test_of_equal_survival_the_longer_one_and_then_the_better_tracking_wins():
    from balance_hil.metrics import EvaluationSummary
    from balance_hil.training.evaluation import rank

    def summary(survival, speed, yaw, steps=24_000):
        return EvaluationSummary(
            episodes=4, survived=0, survival=survival, steps=steps, speed_error_rms=speed, yaw_error_rms=yaw, chatter=0.0
        )

    worst_to_best = [
        rank(summary(0.5, 1.0, 1.0, steps=12_000), None),
        rank(summary(0.5, 2.0, 2.0, steps=13_000), None),
        rank(summary(1.0, 9.0, 1.0), 0.9),
        rank(summary(1.0, 9.0, 5.0), 1.0),
        rank(summary(1.0, 9.0, 1.0), 1.0),
    ]
    assert worst_to_best == sorted(worst_to_best)
    assert len(set(worst_to_best)) == 5


def test_a_resumed_training_goes_on_from_weights_and_steps(finished, resumable):
    _, before, _ = finished
    progress = []
    result = train(resumable, progress.append)
    assert progress[0].steps == before.record.steps
    assert before.record.steps < load(result.checkpoint).record.steps == resumable.steps
    assert result.record.seed == 7
    assert result.record.wall_s > before.record.wall_s
    assert result.record.policy_sha256 != before.record.policy_sha256


def test_resuming_restores_weights_optimiser_and_statistics(finished, resumable):
    from balance_hil.training.session import TrainingSession
    from balance_hil.training.trainer import plan

    session = TrainingSession(plan(resumable), resumable.runs / "r", lambda progress: None)
    stored = load(finished[1].output)
    for name, value in session._model.policy.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), stored.parameters()["policy"][name].numpy())
    assert session._model.policy.optimizer.state_dict()["state"][0]["step"] > 0
    assert session._normaliser.ret_rms.count == stored.record.return_statistics["count"]
    assert session._model.num_timesteps == stored.record.steps


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"algorithm": "ppoo"}, UsageError, "did you mean 'ppo'"),
        ({"environment": "Env1"}, UnknownEnvironmentError, "did you mean 'Env01-v1'"),
        ({"seed": -1}, UsageError, "seed is -1"),
        ({"steps": 0}, ConfigError, "'steps' is 0"),
        ({"device": "abacus"}, UsageError, "cannot train on 'abacus'"),
        ({"device": "cuda:77"}, UsageError, "cannot train on 'cuda:77'"),
    ],
)
def test_a_bad_request_is_named_and_writes_nothing(tiny, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        train(replace(tiny, **changes))
    assert not tiny.output.exists()


def test_an_output_folder_that_cannot_be_written_is_named_before_training(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "deep" / "model"):
        with pytest.raises(UsageError, match="cannot write to"):
            train(replace(tiny, output=output))
    assert not tiny.runs.exists()


def test_a_runs_folder_that_cannot_be_made_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the folder"):
        train(replace(tiny, runs=tmp_path / "file" / "runs"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 100}, UsageError, "nothing is left to do"),
        ({"resume": "nowhere"}, CheckpointError, "no checkpoint"),
    ],
)
def test_what_cannot_be_resumed_is_named(resumable, tmp_path, changes, error, message):
    changes = {k: tmp_path / v if k == "resume" else v for k, v in changes.items()}
    with pytest.raises(error, match=message):
        train(replace(resumable, **changes))


def test_resume_and_config_do_not_go_together(resumable, tiny):
    with pytest.raises(UsageError, match="do not go together"):
        train(replace(resumable, config=tiny.config))


class _Poison:
    """Lets a batch step normally until it has stepped ``after`` times, then spoils what it returns."""

    def __init__(self, monkeypatch, after, spoil):
        step, calls = BalanceBatch.step, iter(range(10**9))

        def poisoned(batch, actions, indices=None):
            outcomes = step(batch, actions, indices)
            return spoil(outcomes) if next(calls) >= after else outcomes

        monkeypatch.setattr(BalanceBatch, "step", poisoned)


def _nan_observation(outcomes):
    return [(np.full(6, np.nan, np.float32), *outcome[1:]) for outcome in outcomes]


def _nan_reward(outcomes):
    return [(outcome[0], float("nan"), *outcome[2:]) for outcome in outcomes]


def _diverged(outcomes):
    raise SimulationDivergedError("the simulation diverged", "shorten the step")


@pytest.mark.parametrize("spoil", [_nan_observation, _nan_reward, _diverged])
def test_a_number_that_is_not_finite_ends_training_with_the_checkpoint_intact(tiny, monkeypatch, spoil):
    tiny = replace(tiny, steps=100_000)
    config = tiny.config.parent / "no_checks.yaml"
    config.write_text(tiny.config.read_text().replace("from_steps: 0", "from_steps: 90000"))
    _Poison(monkeypatch, after=100, spoil=spoil)
    with pytest.raises(
        TrainingError, match=r"^training diverged after \d+ steps: (an observation or a reward|the simulation)"
    ) as caught:
        train(replace(tiny, config=config))
    assert not tiny.output.exists()
    checkpoint = tiny.runs / "tiny_1" / "checkpoint"
    assert str(checkpoint) in caught.value.hint
    assert all(np.isfinite(value.numpy()).all() for value in load(checkpoint).parameters()["policy"].values())


def test_weights_that_are_not_finite_reach_no_file(tiny, monkeypatch):
    import torch
    from stable_baselines3 import PPO

    update, calls = PPO.train, iter(range(10**9))

    def poisoned(model):
        update(model)
        if next(calls) == 2:  # at 768 steps, where the next thing to happen is a checkpoint
            with torch.no_grad():
                model.policy.action_net.bias[0] = float("nan")

    monkeypatch.setattr(PPO, "train", poisoned)
    with pytest.raises(TrainingError, match=r"^training diverged after 768 steps: the weights are NaN"):
        train(tiny)
    assert not tiny.output.exists()
    stored = load(tiny.runs / "tiny_1" / "checkpoint")
    assert stored.record.steps == 512
    assert all(np.isfinite(value.numpy()).all() for value in stored.parameters()["policy"].values())


def test_a_full_disk_is_not_taken_for_a_divergence(tiny, monkeypatch):
    from balance_hil.training import checkpoints

    def full(checkpoint, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_save", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*: No space left"):
        train(tiny)


def test_an_interrupted_confirmation_leaves_the_latest_weights_not_the_best(tiny, monkeypatch):
    from balance_hil.training.session import Evaluator, StopRequestedError

    def interrupted(evaluator, model):
        signal.raise_signal(signal.SIGINT)
        raise StopRequestedError

    check, survivals = Evaluator.check, iter([0.9, 0.1])  # at 512 and, at the end, 1024 steps
    monkeypatch.setattr(Evaluator, "check", lambda *args: replace(check(*args), survival=next(survivals)))
    monkeypatch.setattr(Evaluator, "confirm", interrupted)
    through = train(tiny)
    monkeypatch.undo()
    assert through.interrupted
    plain = train(tiny)
    assert load(through.checkpoint).record.policy_sha256 == load(plain.checkpoint).record.policy_sha256


def _start_cli(tiny, tmp_path, *arguments):
    command = [
        sys.executable,
        "-c",
        "from balance_hil.cli import main; main()",
        "train",
        "ppo",
        "--config",
        str(tiny.config),
        "-o",
        str(tiny.output),
    ]
    command += ["--runs", str(tiny.runs), *arguments]
    return subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait_for(process, path):
    for _ in range(2000):
        if path.exists():
            return
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the command ended with {process.returncode}: {process.stderr.read()}")
    raise AssertionError(f"{path} did not appear")


@pytest.fixture
def endless(tiny):
    """A request that trains until it is interrupted."""
    config = tiny.config.parent / "endless.yaml"
    config.write_text(tiny.config.read_text().replace("from_steps: 0", "from_steps: 90000000"))
    return replace(tiny, config=config, steps=100_000_000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["training", "evaluating"])
def test_a_signal_ends_training_at_the_next_step(endless, tiny, number, phase):
    request = endless if phase == "training" else replace(tiny, steps=100_000_000)

    def on_progress(progress):
        if progress.phase == phase and progress.steps >= 256:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    result = train(request, on_progress)
    assert result.interrupted
    assert load(result.checkpoint).record.steps == result.record.steps <= 2048
    assert not request.output.exists()
    assert signal.getsignal(number) is before


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(endless, tmp_path):
    checkpoint = endless.runs / "tiny_1" / "checkpoint"
    with _start_cli(endless, tmp_path, "--steps", str(endless.steps)) as process:
        try:
            _wait_for(process, checkpoint / "training.json")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert f"checkpoint in {checkpoint}" in err
    assert f"--resume {checkpoint}" in err
    assert "Traceback" not in err
    assert not endless.output.exists()
    steps = load(checkpoint).record.steps
    result = train(replace(endless, config=None, resume=checkpoint, steps=steps + 256, runs=tmp_path / "more"))
    assert load(result.checkpoint).record.steps == steps + 256


def run_cli(*arguments):
    from balance_hil.cli.train import command

    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_the_command_prints_one_json_document_and_fails_when_the_policy_falls(tiny):
    outcome = run_cli("ppo", "--config", tiny.config, "-o", tiny.output, "--runs", tiny.runs, "--json")
    document = json.loads(outcome.stdout)
    assert {"algorithm", "environment", "seed", "steps", "wall_s", "survival", "bundle"} <= set(document)
    assert document["bundle"] == str(tiny.output)
    assert document["survival"] < 1.0
    assert outcome.exit_code == 1
    assert "the policy falls" in outcome.stderr


def test_the_command_succeeds_when_the_policy_survives(tiny, monkeypatch):
    from balance_hil.training import evaluation

    short = evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", lambda *args, **kwargs: short(*args, max_steps=3, **kwargs))
    outcome = run_cli("ppo", "--config", tiny.config, "-o", tiny.output, "--runs", tiny.runs)
    assert outcome.exit_code == 0
    assert outcome.stdout == ""
    assert f"next: hil export {tiny.output}" in outcome.stderr


def test_the_command_hands_errors_on():
    assert isinstance(run_cli("ppo", "-e", "Env99").exception, HarnessError)
