"""Trainings of seconds on environments of others: Gymnasium's, and a robot package."""

import json
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from balance_hil.checkpoint import read_checkpoint
from balance_hil.checkpoint.vecnormalize import read_vecnormalize
from balance_hil.environment import open_environment
from balance_hil.errors import CheckpointError, ConfigError, UnsupportedEnvironmentError, UsageError
from balance_hil.exporting.config import ExportConfig
from balance_hil.exporting.source import as_trained
from balance_hil.rollout import evaluation_seeds, rollout
from balance_hil.training import train
from balance_hil.training.checkpoints import load
from balance_hil.training.plan import plan
from balance_hil.training.request import TrainingRequest, default_output

from ..robots import write_robot

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")

QUICK = """
steps: 40000
policy_layers: [16, 16]
value_layers: [16, 16]
learning_rate: 1.0e-2
n_steps: 32
batch_size: 128
n_epochs: 6
evaluation: {every_steps: 2000, check_episodes: 3, episodes: 5, stop_when_good: true, limits: {return: %d}}
"""
TINY = """
steps: 512
policy_layers: [16]
value_layers: [16]
checkpoint_every_steps: 256
evaluation: {every_steps: 256, check_episodes: 1, episodes: 2}
"""
TINY_OFF_POLICY = TINY + "learning_starts: 128\nbatch_size: 32\ngradient_steps: 1\nbuffer_size: 2048\n"


@pytest.fixture
def request_for(tmp_path):
    """Makes a request with a file of hyper-parameters."""

    def make(algorithm, environment, config, **more):
        path = tmp_path / "config.yaml"
        path.write_text(config)
        return TrainingRequest(
            algorithm=algorithm, environment=environment, output=tmp_path / "policy", config=path, runs=tmp_path / "runs", **more
        )

    return make


@pytest.fixture
def robot(tmp_path, monkeypatch):
    """The name of a robot package that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = write_robot(tmp_path, "trained_robot")
    yield name
    sys.modules.pop(name, None)


def returns_of(result, request, episodes=5):
    """Returns of the written policy as the reader of checkpoints executes it, on the episodes that its record is about."""
    actor = read_checkpoint(result.output / "policy.zip")
    beside = result.output / "vecnormalize.pkl"
    normalization = read_vecnormalize(beside, result.record.spec.n_obs) if beside.exists() else None
    with open_environment(request.environment, request.read_options()) as environment:
        done = rollout(
            lambda rows: actor.act_batch(normalization.apply(rows) if normalization else rows),
            environment,
            evaluation_seeds(episodes),
        )
    return [episode.metrics["return"] for episode in done]


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "enough"), [("CartPole-v1", 300), ("InvertedPendulum-v5", 500)])
def test_ppo_learns_it_within_its_limit(request_for, environment, enough):
    request = request_for("ppo", environment, QUICK % enough)
    result = train(request)
    assert result.good
    assert result.record.steps < 40_000  # it ended when it was good
    assert result.record.evaluation["metrics"]["return"] >= enough
    # Discrete: the one with the larger output; Box(-3, 3): scaled from the policy's -1..1.
    assert np.mean(returns_of(result, request)) == pytest.approx(result.record.evaluation["metrics"]["return"], rel=0.02)
    assert result.record.spec.environment == environment
    assert "good" not in json.loads((request.output / "training.json").read_text())


@pytest.mark.parametrize("algorithm", ["sac", *(pytest.param(name, marks=pytest.mark.slow) for name in ("td3", "ddpg", "a2c"))])
def test_every_algorithm_takes_a_box_of_any_limits(request_for, algorithm):
    import stable_baselines3

    tiny = TINY if algorithm == "a2c" else TINY_OFF_POLICY
    request = request_for(algorithm, "Pendulum-v1", tiny)
    result = train(request)
    path = request.output / "policy.zip"
    model = getattr(stable_baselines3, algorithm.upper()).load(path, device="cpu")
    assert (model.action_space.low, model.action_space.high) == (-2.0, 2.0)  # the environment's own
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    actions = result.record.spec.action_map(read_checkpoint(path).act_batch(observations))
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    assert np.mean(returns_of(result, request, 2)) == pytest.approx(result.record.evaluation["metrics"]["return"], rel=1e-3)


def test_a_robot_package_is_trained_by_its_own_metrics_failures_and_length(request_for, robot):
    options = request_for("ppo", "", "").config.with_name("options.yaml")
    options.write_text("gain: 2.0\nreset: {angle_rad: 0.1}\n")
    config = TINY + "n_steps: 32\nbatch_size: 64\nepisode_steps: 50\n"
    request = request_for("ppo", f"{robot}:{robot}/Cart-v0", config, options=options)
    result = train(request)
    record = json.loads((request.output / "training.json").read_text())
    assert record["environment"] == f"{robot}:{robot}/Cart-v0"
    assert record["options"] == {"gain": 2.0, "reset": {"angle_rad": 0.1}}
    assert f"--options {options}" in record["rebuild"]
    assert record["spec"]["episode_steps"] == 200  # evaluation runs the full length, training 50
    assert set(record["evaluation"]["metrics"]) == {"return", "angle_rms_rad"}
    assert np.mean(returns_of(result, request, 2)) == pytest.approx(record["evaluation"]["metrics"]["return"], rel=1e-3)
    assert record["success_rate"] == 1.0 - record["evaluation"]["failed"] / 2
    assert load(request.output).record.spec.observation[1].name == "angle"
    assert result.good == (record["success_rate"] == 1.0)
    exported = as_trained(ExportConfig(source=request.output))
    assert (exported.options, exported.period_s) == (record["options"], 0.02)
    assert as_trained(ExportConfig(source=request.output / "policy.zip", options={"gain": 1.0})).options == {"gain": 1.0}
    elsewhere = ExportConfig(source=request.output, environment="CartPole-v1")
    assert as_trained(elsewhere) == elsewhere


def test_the_same_seed_gives_the_same_policy(request_for):
    short = request_for("ppo", "Pendulum-v1", TINY + "n_steps: 32\nbatch_size: 64\n", force=True)
    first, again, other = train(short), train(short), train(replace(short, seed=8))
    assert first.record.policy_sha256 == again.record.policy_sha256 != other.record.policy_sha256


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "td3"])
def test_normalized_observations_are_written_beside_the_policy(request_for, algorithm, tmp_path):
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from balance_hil.training.session import TrainingSession

    tiny = TINY + "n_steps: 32\nbatch_size: 64\n" if algorithm == "ppo" else TINY_OFF_POLICY
    request = request_for(algorithm, "InvertedPendulum-v5", tiny, normalize_observations=True)
    result = train(request)
    assert sorted(path.name for path in request.output.iterdir()) == ["policy.zip", "training.json", "vecnormalize.pkl"]
    statistics = result.record.observation_statistics
    loaded = VecNormalize.load(
        request.output / "vecnormalize.pkl", DummyVecEnv([lambda: open_environment(request.environment).env])
    )
    np.testing.assert_array_equal(loaded.obs_rms.mean, statistics["mean"])
    assert loaded.obs_rms.count == statistics["count"] > 200
    # The reader of checkpoints normalizes as the evaluation of the training did.
    assert np.mean(returns_of(result, request, 2)) == pytest.approx(result.record.evaluation["metrics"]["return"], rel=1e-3)
    again = replace(request, config=None, normalize_observations=False, resume=result.checkpoint, steps=1024, force=True)
    session = TrainingSession(plan(again), tmp_path / "session", lambda progress: None)
    np.testing.assert_array_equal(
        session._normalizer.obs_rms.var, load(result.checkpoint).record.observation_statistics["variance"]
    )
    assert session._normalizer.norm_obs
    # A policy without normalization that takes its place leaves none behind.
    train(replace(request, normalize_observations=False, force=True))
    assert not (request.output / "vecnormalize.pkl").exists()


def test_a_normalizer_that_is_missing_or_another_ones_is_refused(request_for):
    request = request_for("ppo", "Pendulum-v1", TINY + "n_steps: 32\nbatch_size: 64\n", normalize_observations=True)
    result = train(request)
    path = result.output / "vecnormalize.pkl"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"vecnormalize\.pkl is not the file"):
        load(result.output)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"vecnormalize\.pkl cannot be read"):
        load(result.output)


@pytest.mark.parametrize(
    ("algorithm", "environment", "more", "error", "message"),
    [
        ("sac", "CartPole-v1", "", UsageError, "sac cannot choose among discrete actions"),
        ("ppo", "CartPole-v1", "evaluation: {stop_when_good: true}", ConfigError, "stop_when_good needs a limit"),
        ("ppo", "CartPole-v1", "evaluation: {limits: {speed: 1}}", ConfigError, "CartPole-v1 has no metric 'speed'"),
        ("ppo", "CartPole-v1", "evaluation: {best_by: speed}", ConfigError, "CartPole-v1 has no metric 'speed'"),
        ("ppo", "CartPole-v1", "far_starts: 0.5", ConfigError, "CartPole-v1 has no far starts"),
        ("a2c", "CartPole-v1", "symmetry_weight: 1", ConfigError, "does not define its symmetries"),
        ("td3", "Pendulum-v1", "symmetry: true", ConfigError, "does not define its symmetries"),
        (
            "td3",
            "balance/Balance-v0",
            "normalize_observations: true",
            ConfigError,
            "symmetry augmentation does not support normalized",
        ),
        ("td3", "Pendulum-v1", "smoothness: {observation_noise: [1, 1]}", ConfigError, "observation_noise"),
        ("ppo", "CartPole-v1", "training_options: {wheels: 2}", ConfigError, "does not take these options"),
        ("ppo", "balance/Balance-v0", "evaluation: {options: {wheels: {}}}", ConfigError, "unknown option 'wheels'"),
        ("ppo", "CartPole-v1", "curriculum: {end: {}}", ConfigError, "cannot change its options"),
        ("ppo", "HumanoidStandup-v5", "", None, ""),
        ("ppo", "Blackjack-v1", "", UnsupportedEnvironmentError, "Tuple"),
        ("lqr", "CartPole-v1", "", UsageError, "unknown algorithm 'lqr'"),
    ],
)
def test_what_cannot_be_trained_is_named_before_anything_is_written(request_for, algorithm, environment, more, error, message):
    request = request_for(algorithm, environment, more)
    if error is None:
        assert plan(request).record.spec.n_act == 17
        return
    with pytest.raises(error, match=message):
        train(request)
    assert not request.runs.exists()
    assert not request.output.exists()


def test_termination_means_what_the_user_says(request_for):
    request = request_for("ppo", "CartPole-v1", TINY + "n_steps: 32\nbatch_size: 64\n", terminated="failure")
    result = train(request)
    assert result.record.spec.terminated == "failure"
    assert result.record.success_rate == 0.0
    assert not result.good
    assert "--terminated failure" in result.record.rebuild
    assert as_trained(ExportConfig(source=request.output)).terminated == "failure"


def test_further_arguments_reach_stable_baselines(request_for):
    tiny = TINY + "n_steps: 32\nbatch_size: 64\n"
    request = request_for("ppo", "Pendulum-v1", tiny + "sb3: {use_sde: true, target_kl: 0.1, policy_kwargs: {full_std: false}}\n")
    train(request)
    actor = read_checkpoint(request.output / "policy.zip")
    assert actor.algorithm == "ppo"
    with pytest.raises(ConfigError, match="no argument 'target_k', did you mean 'target_kl'"):
        train(replace(request_for("ppo", "Pendulum-v1", tiny + "sb3: {target_k: 0.1}\n"), force=True))
    with pytest.raises(ConfigError, match="Stable-Baselines3 rejects these settings"):
        train(replace(request_for("ppo", "Pendulum-v1", tiny + "sb3: {sde_sample_freq: 3, device: abacus}\n"), force=True))


def test_a_policy_or_a_bundle_that_is_there_is_not_replaced(request_for):
    request = request_for("ppo", "CartPole-v1", TINY)
    request.output.mkdir()
    (request.output / "policy.zip").write_bytes(b"mine")
    with pytest.raises(UsageError, match="holds a policy") as error:
        plan(request)
    assert "--force" in error.value.hint
    plan(replace(request, force=True))
    (request.output / "bundle.json").write_text("{}")
    for force in (False, True):
        with pytest.raises(UsageError, match="holds a bundle"):
            train(replace(request, force=force))
    assert (request.output / "policy.zip").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("environment", "name"),
    [("CartPole-v1", "CartPole-v1-ppo"), ("balance/Balance-v0", "Balance-v0-ppo"), ("mybot.envs:me/Bot-v0", "Bot-v0-ppo")],
)
def test_the_result_has_the_name_of_environment_and_algorithm(environment, name):
    assert default_output(environment, "ppo").as_posix() == f"policies/{name}"


class Grid(gym.Env):
    """Observations and actions of two axes, float64, and an end of its own that is not a failure."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
    action_space = gym.spaces.Box(np.array([[-0.5], [-3.0]]), np.array([[0.5], [3.0]]), dtype=np.float64)
    control_period_s = 0.1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.uniform(-1, 1, (2, 2)), 0
        return self.state.copy(), {}

    def step(self, action):
        assert action.shape == (2, 1)
        assert self.action_space.contains(action)
        self.state[:, 1:] += action
        self.steps += 1
        return self.state.copy(), float(action.sum() - np.abs(self.state).sum()), False, self.steps == 7, {"reward_size": 1.0}


@pytest.fixture
def grid():
    gym.register("Grid-v0", Grid, max_episode_steps=100)
    yield "Grid-v0"
    del gym.registry["Grid-v0"]


@pytest.mark.parametrize("algorithm", ["ppo", "sac", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a2c", "td3"))])
def test_any_shape_and_limits_of_each_element(request_for, grid, algorithm):
    tiny = {"ppo": TINY + "n_steps: 32\nbatch_size: 64\n", "a2c": TINY}.get(algorithm, TINY_OFF_POLICY)
    request = request_for(algorithm, grid, tiny)
    result = train(request)
    assert result.record.evaluation["steps"] == 14  # two episodes that ended by themselves
    assert result.record.evaluation["failed"] == 0
    assert np.mean(returns_of(result, request, 2)) == pytest.approx(result.record.evaluation["metrics"]["return"], rel=1e-3)


def test_an_end_of_the_environments_own_is_a_truncation_to_the_algorithm(grid):
    from balance_hil.training.vec_env import TrainingEnvs

    with open_environment(grid) as environment:
        envs = TrainingEnvs(environment, 2, 100, (1, 0))
        first = envs.reset()
        assert first.shape == (2, 2, 2)
        for step in range(7):
            observations, _, dones, infos = envs.step(np.full((2, 2, 1), 0.25))
            assert dones.all() == (step == 6)
        assert infos[0]["TimeLimit.truncated"]
        assert infos[0]["episode"]["l"] == 7
        np.testing.assert_allclose(infos[0]["terminal_observation"][:, 1], first[0][:, 1] + 7 * 0.25, rtol=1e-5)
        assert not np.allclose(observations, first)


def test_the_command_writes_to_policies_and_refuses_what_is_there(request_for, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from balance_hil.cli.train import command

    config = request_for("ppo", "CartPole-v1", TINY + "n_steps: 32\nbatch_size: 64\n").config
    monkeypatch.chdir(tmp_path)
    arguments = ["ppo", "-e", "CartPole-v1", "--config", str(config), "--normalize-observations", "--json"]
    first = CliRunner().invoke(command, arguments)
    assert first.exit_code == 0
    assert json.loads(first.stdout)["good"]
    folder = tmp_path / "policies" / "CartPole-v1-ppo"
    assert (folder / "vecnormalize.pkl").exists()
    assert "next: hil export policies/CartPole-v1-ppo" in first.stderr
    assert isinstance(CliRunner().invoke(command, arguments).exception, UsageError)
    again = CliRunner().invoke(command, [*arguments, "--force", "--terminated", "failure"])
    assert again.exit_code == 1
    assert json.loads(again.stdout)["success_rate"] == 0.0
    assert "episodes failed" in again.stderr
