"""Tiny trainings from request to files, resumed ones included."""

import json
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.environment import open_environment
from balance_hil.envs.balance import config_for
from balance_hil.envs.balance.task import REWARD_TERMS
from balance_hil.errors import (
    CheckpointError,
    ConfigError,
    UnknownEnvironmentError,
    UsageError,
)
from balance_hil.training import train
from balance_hil.training.checkpoints import load

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")


def test_a_training_leaves_a_policy_and_its_record(finished):
    request, result, _ = finished
    assert sorted(p.name for p in request.output.iterdir()) == ["policy.zip", "training.json"]
    values = json.loads((request.output / "training.json").read_text())
    assert (values["algorithm"], values["environment"], values["seed"]) == ("ppo", "balance/Balance-v0", 7)
    assert 0 < values["steps"] <= 1024
    assert values["wall_s"] > 0
    assert values["evaluation_wall_s"] > 0
    assert values["success_rate"] == 1 - values["evaluation"]["failed"] / 3
    assert values["evaluation"]["first_seed"] == 10_000
    assert values["hyper_parameters"]["policy_layers"] == [8]
    assert values["spec"] == json.loads(json.dumps(config_for("balance/Balance-v0").policy_spec("balance/Balance-v0").to_dict()))
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
    assert progress[-1].success_rate is not None
    assert any(p.episode_return for p in progress)


def test_tensorboard_has_every_reward_term_and_the_evaluation(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[1].tensorboard))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"reward/{term}" for term in REWARD_TERMS} <= tags
    assert {"eval/success_rate", "eval/mean_reward", "rollout/ep_rew_mean", "train/loss"} <= tags
    assert events.Scalars("reward/alive")[0].value == pytest.approx(0.2)
    assert b"learning_rate" in events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content


def test_the_same_seed_gives_the_same_policy_and_another_seed_another(tiny):
    short = replace(tiny, steps=256)
    first, again, other = train(short), train(short), train(replace(short, seed=8))
    assert first.record.policy_sha256 == again.record.policy_sha256 != other.record.policy_sha256
    assert first.record.evaluation == again.record.evaluation


def test_every_run_has_a_folder_of_its_own(tiny):
    first, second = train(replace(tiny, steps=256)), train(replace(tiny, steps=256))
    assert first.tensorboard.parent.name == "tiny_1"
    assert second.tensorboard.parent.name == "tiny_2"


def test_training_stops_when_no_episode_fails(tiny, monkeypatch):
    from balance_hil.training import evaluation

    short = evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", lambda *args, **kwargs: short(*args, max_steps=3, **kwargs))
    handler = signal.getsignal(signal.SIGINT)
    result = train(replace(tiny, steps=100_000))
    assert signal.getsignal(signal.SIGINT) is handler
    assert result.record.success_rate == 1.0
    assert result.record.steps == 512


def test_the_best_policy_is_kept(tiny, monkeypatch):
    from balance_hil.training.session import Evaluator

    rates = iter([0.5, 0.9, 0.0])  # at 512, 768 and, at the end, 1024 steps
    check, confirm = Evaluator.check, Evaluator.confirm
    monkeypatch.setattr(Evaluator, "check", lambda *args: replace(check(*args), success_rate=next(rates)))
    confirmed = []

    def observed(evaluator, model):
        confirmed.append({name: value.numpy().copy() for name, value in model.policy.state_dict().items()})
        return replace(confirm(evaluator, model), success_rate=2 / 3)

    monkeypatch.setattr(Evaluator, "confirm", observed)
    config = tiny.config.parent / "more_checks.yaml"
    config.write_text(
        tiny.config.read_text().replace("every_steps: 512", "every_steps: 256").replace("from_steps: 0", "from_steps: 512")
    )
    result = train(replace(tiny, config=config))
    assert result.record.steps == 768
    assert result.record.success_rate == pytest.approx(2 / 3)
    assert len(confirmed) == 1
    for name, value in load(result.output).parameters()["policy"].items():
        np.testing.assert_array_equal(confirmed[0][name], value.numpy())


def test_of_equal_success_the_confirmed_the_good_and_then_the_better_in_the_metric_wins():
    from balance_hil.metrics import EvaluationSummary
    from balance_hil.training.config import EvaluationConfig
    from balance_hil.training.evaluation import Evaluator

    def rank(success_rate, confirmed, good, value, best_by="return"):
        config = EvaluationConfig(
            every_steps=1, from_steps=0, check_episodes=1, episodes=1, stop_when_good=False, limits={}, best_by=best_by
        )
        summary = EvaluationSummary(episodes=4, failed=0, success_rate=success_rate, steps=24_000, metrics={best_by: value})
        with open_environment("balance/Balance-v0") as environment:
            return Evaluator(environment, config).rank(summary, confirmed, good)

    worst_to_best = [
        rank(0.5, None, False, 400.0),
        rank(0.5, None, False, 500.0),
        rank(1.0, None, False, 100.0),
        rank(1.0, 0.9, True, 900.0),
        rank(1.0, 1.0, True, 800.0),
        rank(1.0, 1.0, True, 900.0),
    ]
    assert worst_to_best == sorted(worst_to_best)
    assert len(set(worst_to_best)) == 6
    by_rate = [rank(1.0, None, True, value, "action_rate") for value in (0.5, 0.1)]  # of an error the smaller one is better
    assert by_rate == sorted(by_rate)


def test_a_limit_is_a_minimum_where_more_is_better_and_a_maximum_otherwise():
    from balance_hil.metrics import EvaluationSummary
    from balance_hil.training.config import EvaluationConfig
    from balance_hil.training.evaluation import Evaluator

    limits = {"return": 100.0, "action_rate": 0.05}
    config = EvaluationConfig(
        every_steps=1, from_steps=0, check_episodes=1, episodes=1, stop_when_good=True, limits=limits, best_by="return"
    )

    def good(success_rate, value, rate):
        metrics = {"return": value, "action_rate": rate}
        summary = EvaluationSummary(episodes=1, failed=0, success_rate=success_rate, steps=1, metrics=metrics)
        with open_environment("balance/Balance-v0") as environment:
            return Evaluator(environment, config).is_good(summary)

    assert good(1.0, 100.0, 0.05)
    assert not good(1.0, 99.0, 0.05)
    assert not good(1.0, 100.0, 0.06)
    assert not good(0.9, 100.0, 0.05)
    assert not good(1.0, float("nan"), 0.05)


def test_a_resumed_training_goes_on_from_weights_and_steps(finished, resumable):
    _, before, _ = finished
    progress = []
    result = train(resumable, progress.append)
    assert progress[0].steps == before.record.steps
    assert before.record.steps < load(result.checkpoint).record.steps == resumable.steps
    assert result.record.seed == 7
    assert result.record.wall_s > before.record.wall_s
    assert result.record.policy_sha256 != before.record.policy_sha256


def test_resuming_restores_weights_optimizer_and_statistics(finished, resumable):
    from balance_hil.training.plan import plan
    from balance_hil.training.session import TrainingSession

    session = TrainingSession(plan(resumable), resumable.runs / "r", lambda progress: None)
    stored = load(finished[1].output)
    for name, value in session._model.policy.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), stored.parameters()["policy"][name].numpy())
    assert session._model.policy.optimizer.state_dict()["state"][0]["step"] > 0
    assert session._normalizer.ret_rms.count == stored.record.return_statistics["count"]
    assert session._model.num_timesteps == stored.record.steps


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"algorithm": "ppoo"}, UsageError, "did you mean 'ppo'"),
        ({"environment": "balance/Balance-v1"}, UnknownEnvironmentError, "did you mean 'balance/Balance-v0'"),
        ({"seed": -1}, UsageError, "seed is -1"),
        ({"steps": 0}, ConfigError, "'steps' is 0"),
        ({"device": "abacus"}, UsageError, "cannot train on 'abacus'"),
        ({"device": "cuda:77"}, UsageError, "cannot train on 'cuda:77'"),
        ({"algorithm": "sacc"}, UsageError, "did you mean 'sac'"),
    ],
)
def test_a_bad_request_is_named_and_writes_nothing(tiny, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        train(replace(tiny, **changes))
    assert not tiny.output.exists()


def test_a_gpu_is_taken_where_there_is_one_and_refused_where_there_is_none(tiny, monkeypatch):
    import torch

    from balance_hil.training.plan import plan

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plan(replace(tiny, device="auto")).request.device == "cpu"
    with pytest.raises(UsageError, match="cannot train on 'cuda': torch finds no GPU here"):
        plan(replace(tiny, device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert plan(replace(tiny, device="auto")).request.device == "cuda"


def test_a_spinning_or_chattering_policy_does_not_end_training(tiny, monkeypatch):
    from balance_hil.training.session import Evaluator

    check = Evaluator.check
    confirmed = []
    monkeypatch.setattr(Evaluator, "confirm", lambda *args: confirmed.append(args) or replace(check(*args), success_rate=1.0))
    names = ("action_rate", "speed_error_rms_rad_s", "wheel_speed_difference_error_rms_rad_s")
    for name in names:
        metrics = dict.fromkeys((*names, "return"), 0.0) | {name: 1e3}
        monkeypatch.setattr(
            Evaluator, "check", lambda *args, metrics=metrics: replace(check(*args), success_rate=1.0, metrics=metrics)
        )
        result = train(replace(tiny, output=tiny.output / name))
        assert load(result.checkpoint).record.steps == 1024
        assert len(confirmed) == 1  # at the end, to be reported
        confirmed.clear()


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
        ({"resume": "nowhere"}, CheckpointError, "not a checkpoint"),
    ],
)
def test_what_cannot_be_resumed_is_named(resumable, tmp_path, changes, error, message):
    changes = {k: tmp_path / v if k == "resume" else v for k, v in changes.items()}
    with pytest.raises(error, match=message):
        train(replace(resumable, **changes))


def test_resume_and_config_do_not_go_together(resumable, tiny):
    with pytest.raises(UsageError, match="exclude each other"):
        train(replace(resumable, config=tiny.config))
