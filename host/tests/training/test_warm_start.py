"""Beginning a training with the weights of another one."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from balance_hil.checkpoint import read_checkpoint
from balance_hil.environment import open_environment
from balance_hil.errors import CheckpointError, ConfigError, EnvironmentMismatchError, UsageError
from balance_hil.metrics import summarize
from balance_hil.rollout import EVALUATION_SEED_BASE, rollout
from balance_hil.training import checkpoints, evaluation, train
from balance_hil.training.plan import plan

NO_LEARNING = "learning_rate: 0\nlearning_rate_end: 0\nsteps: 256\n"


@pytest.fixture
def frozen(tiny, finished, tmp_path, tiny_config):
    """A request that begins with the finished training's weights and does not move them."""
    config = tmp_path / "frozen.yaml"
    config.write_text(tiny_config.read_text().replace("steps: 1024", NO_LEARNING))
    return replace(tiny, config=config, init_from=finished[1].output)


def test_it_begins_with_the_weights_and_counts_its_own_steps(frozen, finished):
    result = train(frozen)
    before, after = (read_checkpoint(folder / "policy.zip") for folder in (finished[1].output, result.output))
    for a, b in zip(before.weights + before.biases, after.weights + after.biases, strict=True):
        np.testing.assert_array_equal(a, b)
    assert result.record.steps == 256
    assert f"--init-from {finished[1].output}" in result.record.rebuild
    fresh = train(replace(frozen, init_from=None, output=frozen.output.with_name("fresh")))
    assert not np.array_equal(read_checkpoint(fresh.output / "policy.zip").weights[0], before.weights[0])


@pytest.mark.slow
def test_a_computed_policy_is_laid_into_a_larger_actor(frozen, tmp_path, monkeypatch):
    """Two hidden layers of 16 units that compute what the regulator's one layer of 5 does."""
    monkeypatch.setattr(evaluation, "rollout", partial(rollout, max_steps=100))  # it does not fall: 6000 otherwise
    few = tmp_path / "few.yaml"
    few.write_text("episodes: 1\n")
    request = replace(frozen, algorithm="lqr", config=few, init_from=None, output=tmp_path / "lqr")
    computed = train(request).output
    settings = frozen.config.read_text().replace("policy_layers: [8]", "policy_layers: [16, 16]")
    settings = settings.replace("check_episodes: 2, episodes: 3", "check_episodes: 1, episodes: 1")  # none falls
    config = tmp_path / "larger.yaml"
    config.write_text(settings + "activation: relu\n")
    larger = train(replace(frozen, config=config, init_from=computed, output=tmp_path / "larger")).output
    before, after = (read_checkpoint(folder / "policy.zip") for folder in (computed, larger))
    assert [len(bias) for bias in after.biases] == [16, 16, 2]
    observations = np.random.default_rng(0).uniform(-1, 1, (100, 6)).astype(np.float32)
    np.testing.assert_allclose(after.act_batch(observations), before.act_batch(observations), atol=1e-5)
    for changed in (("[16, 16]", "[4, 16]"), ("relu", "tanh")):
        config.write_text((settings + "activation: relu\n").replace(*changed))
        with pytest.raises(CheckpointError, match="does not fit the actor"):
            train(replace(frozen, config=config, init_from=computed, output=tmp_path / "refused"))


def test_a_reward_weight_that_does_not_exist_is_refused(frozen):
    config = frozen.config
    config.write_text(config.read_text() + "training_options: {reward: {sped: 1}}\n")
    with pytest.raises(ConfigError, match=r"reward\.sped.*did you mean 'reward\.speed'"):
        plan(frozen)


def test_a_curriculum_trains_and_is_resumed(frozen, tmp_path):
    config = tmp_path / "curriculum.yaml"
    config.write_text(frozen.config.read_text() + "curriculum: {end: {sensors: {pitch_bias_rad: [-0.02, 0.02]}}}\n")
    result = train(replace(frozen, config=config))
    assert result.record.hyper_parameters["curriculum"] == {"end": {"sensors": {"pitch_bias_rad": [-0.02, 0.02]}}}
    again = train(replace(frozen, config=None, init_from=None, resume=result.output, steps=512, output=tmp_path / "more"))
    assert again.record.steps == 512


def test_the_result_is_judged_on_the_robot_of_the_evaluation(frozen, tmp_path):
    config, robot = tmp_path / "judged.yaml", {"physics": {"com_offset_x_m": 0.01}}
    settings = frozen.config.read_text().replace("evaluation: {", f"evaluation: {{options: {json.dumps(robot)}, ")
    config.write_text(settings + "curriculum: {end: {sensors: {pitch_bias_rad: [-0.02, 0.02]}}}\n")
    result = train(replace(frozen, config=config))
    actor = read_checkpoint(result.output / "policy.zip")
    seeds = range(EVALUATION_SEED_BASE, EVALUATION_SEED_BASE + result.record.evaluation["episodes"])
    with open_environment("balance/Balance-v0", {"options": robot}) as env:
        again = summarize(rollout(actor.act_batch, env, seeds), env.metrics)
    assert result.record.evaluation["metrics"] == pytest.approx(again.metrics)
    config.write_text(settings.replace("com_offset", "kom_offset"))
    with pytest.raises(ConfigError, match="kom_offset"):
        plan(replace(frozen, config=config))


def test_a_checkpoint_of_another_environment_is_refused(frozen, finished, tmp_path):
    """Another environment is one with other signals: the weights would mean something else."""
    checkpoint = checkpoints.load(finished[1].output)
    pitch, *others = checkpoint.record.spec.observation
    spec = replace(checkpoint.record.spec, environment="Env09-v1", observation=(replace(pitch, scale=0.5), *others))
    checkpoints.save(
        replace(checkpoint, record=replace(checkpoint.record, environment="Env09-v1", spec=spec)), tmp_path / "other"
    )
    with pytest.raises(EnvironmentMismatchError, match="Env09-v1"):
        plan(replace(frozen, init_from=tmp_path / "other"))


def test_a_checkpoint_of_another_algorithm_is_refused(frozen, finished, tmp_path):
    checkpoint = checkpoints.load(finished[1].output)
    other = replace(checkpoint, record=replace(checkpoint.record, algorithm="sac"))
    checkpoints.save(other, tmp_path / "other")
    with pytest.raises(CheckpointError, match="trained with sac, not with ppo"):
        plan(replace(frozen, init_from=tmp_path / "other"))


def test_other_layers_are_refused(frozen, tmp_path):
    config = tmp_path / "larger.yaml"
    config.write_text(frozen.config.read_text().replace("policy_layers: [8]", "policy_layers: [16]"))
    with pytest.raises(CheckpointError, match="do not fit"):
        train(replace(frozen, config=config))


def test_it_goes_neither_with_resume_nor_with_nothing_there(frozen, finished, tmp_path):
    with pytest.raises(UsageError, match="exclude each other"):
        plan(replace(frozen, config=None, resume=finished[1].output))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        plan(replace(frozen, init_from=tmp_path))


def test_the_record_survives_a_round_trip(frozen):
    result = train(frozen)
    assert json.loads((result.output / "training.json").read_text())["rebuild"] == result.record.rebuild
