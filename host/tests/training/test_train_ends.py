"""What ends a training early, and the command around it."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.errors import (
    CheckpointError,
    HarnessError,
    SimulationDivergedError,
    TrainingError,
)
from balance_hil.training import train
from balance_hil.training.checkpoints import load

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")


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
    with np.load(tiny.runs / "tiny_1" / "diverged.npz") as state:
        assert (state["qpos"].shape, state["qvel"].shape, state["actions"].shape) == ((8, 9), (8, 8), (8, 2))
        assert np.isfinite(state["qpos"]).all()
    assert str(tiny.runs / "tiny_1" / "diverged.npz") in caught.value.hint
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

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "staging_folder", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*: No space left"):
        train(tiny)


def test_an_interrupted_confirmation_leaves_the_latest_weights_not_the_best(tiny, monkeypatch):
    from balance_hil.training.session import Evaluator, StopRequestedError

    def interrupted(evaluator, model):
        signal.raise_signal(signal.SIGINT)
        raise StopRequestedError

    check, rates = Evaluator.check, iter([0.9, 0.1])  # at 512 and, at the end, 1024 steps
    monkeypatch.setattr(Evaluator, "check", lambda *args: replace(check(*args), success_rate=next(rates)))
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
    (tmp_path / "temporary").mkdir()
    settings = {key: value for key, value in os.environ.items() if not key.startswith("TORCHINDUCTOR")}
    settings |= {"TMPDIR": str(tmp_path / "temporary")}
    return subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=settings)


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
    assert [path for path in (tmp_path / "temporary").iterdir() if path.name.startswith("torch")] == []
    steps = load(checkpoint).record.steps
    result = train(replace(endless, config=None, resume=checkpoint, steps=steps + 256, runs=tmp_path / "more"))
    assert load(result.checkpoint).record.steps == steps + 256


def run_cli(*arguments):
    from balance_hil.cli.train import command

    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_the_command_prints_one_json_document_and_fails_when_episodes_fail(tiny):
    outcome = run_cli("ppo", "--config", tiny.config, "-o", tiny.output, "--runs", tiny.runs, "--json")
    document = json.loads(outcome.stdout)
    assert {"algorithm", "environment", "seed", "steps", "wall_s", "success_rate", "bundle"} <= set(document)
    assert document["bundle"] == str(tiny.output)
    assert document["success_rate"] < 1.0
    assert outcome.exit_code == 1
    assert "warning: episodes failed" in outcome.stderr


def test_the_command_succeeds_when_the_policy_survives(tiny, monkeypatch):
    from balance_hil.training import evaluation

    short = evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", lambda *args, **kwargs: short(*args, max_steps=3, **kwargs))
    outcome = run_cli("ppo", "--config", tiny.config, "-o", tiny.output, "--runs", tiny.runs)
    assert outcome.exit_code == 0
    assert outcome.stdout == ""
    assert f"next: hil export {tiny.output}" in outcome.stderr


def test_what_is_wrong_is_named_before_anything_large_is_imported(tmp_path):
    check = (
        "import sys\nfrom balance_hil.cli import hil\n"
        "try: hil(['train', 'ppo', '-e', 'Pong'], standalone_mode=False)\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print([name for name in ('torch', 'stable_baselines3', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["UnknownEnvironmentError", "[]"]


def test_the_command_hands_errors_on():
    assert isinstance(run_cli("ppo", "-e", "Env99").exception, HarnessError)
