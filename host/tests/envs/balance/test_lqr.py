"""The classical baseline: gain, form of the policy, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.checkpoint import read_checkpoint
from balance_hil.environment import open_environment
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.lqr import LqrConfig, feedback, linearize, lqr_gain, observation_gain, solve_riccati
from balance_hil.errors import CheckpointError, ConfigError, UsageError
from balance_hil.metrics import summarize
from balance_hil.rollout import rollout
from balance_hil.settings import settings_from_dict
from balance_hil.training import train
from balance_hil.training.config import read_layers
from balance_hil.training.request import TrainingRequest

from ...installed import require_installed

CONFIG = envs.config_for("balance/Balance-v0")


@pytest.fixture(scope="module")
def model():
    return linearize(CONFIG)


@pytest.fixture(scope="module")
def gain():
    settings = read_layers("lqr", [BalanceEnv.training_configs])
    del settings["episodes"]
    return feedback(settings_from_dict(LqrConfig, settings), CONFIG)


def test_riccati_of_a_scalar_system_has_its_closed_form():
    # p = q + a²p - a²p²/(r + p) with a = 2, q = 3, r = 1: p² - 6p - 3 = 0
    p = solve_riccati(np.array([[2.0]]), np.array([[1.0]]), np.array([[3.0]]), np.array([[1.0]]))
    assert p[0, 0] == pytest.approx(3 + np.sqrt(12), rel=1e-12)


def test_riccati_holds_and_stabilizes_for_random_systems():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.normal(size=(5, 5)), rng.normal(size=(5, 2))
        q, r = np.diag(rng.uniform(0.1, 2, 5)), np.diag(rng.uniform(0.1, 2, 2))
        p, k = solve_riccati(a, b, q, r), lqr_gain(a, b, q, r)
        np.testing.assert_allclose(q + a.T @ p @ (a - b @ k), p, rtol=1e-7, atol=1e-7 * np.max(p))
        assert np.max(np.abs(np.linalg.eigvals(a - b @ k))) < 1.0


def test_an_unreachable_unstable_mode_is_refused():
    with pytest.raises(np.linalg.LinAlgError):
        solve_riccati(np.diag([1.5, 0.5]), np.array([[0.0], [1.0]]), np.eye(2), np.eye(1))


def test_the_linear_model_is_the_robots(model):
    """Falls within tens of steps, keeps a commanded speed, and a common action turns it backwards."""
    poles = np.sort(np.abs(np.linalg.eigvals(model.a)))
    assert poles == pytest.approx([0.965, 1.0, 1.0, 1.0365], abs=5e-3)
    assert model.b[2] == pytest.approx([1.0, 1.0], abs=0.05)  # mean wheel speed: half of 2 rad/s each
    assert model.b[3] == pytest.approx([-2.0, 2.0], abs=0.05)
    assert (model.b[1] < -0.1).all()


def test_the_linear_model_predicts_the_simulation(model):
    env = envs.make("balance/Balance-v0").unwrapped
    _, info = env.reset(seed=0, options={"tilt_rad": 0.01, "speed_target_rad_s": 0.0, "wheel_speed_difference_target_rad_s": 0.0})
    x = np.array([0.01, 0.0, 0.0, 0.0])
    for k in range(20):
        action = np.array([0.1 + 0.02 * k, 0.2])
        x = model.a @ x + model.b @ action
        _, _, _, _, info = env.step(action.astype(np.float32))
    assert info["pitch_rad"] == pytest.approx(x[0], rel=0.1)
    assert -info["speed_error_rad_s"] == pytest.approx(x[2], rel=0.1)
    assert -info["wheel_speed_difference_error_rad_s"] == pytest.approx(x[3], rel=0.1)


def test_the_gain_stabilizes_the_linear_model(model, gain):
    assert np.max(np.abs(np.linalg.eigvals(model.a - model.b @ gain))) < 0.999


def test_the_gain_balances_the_simulation_and_no_gain_does_not(gain):
    weights = observation_gain(gain, CONFIG)

    def survival(scale):
        with open_environment("balance/Balance-v0") as env:
            episodes = rollout(lambda o: np.clip(o @ (scale * weights).T, -1, 1), env, range(8), max_steps=600)
        return summarize(episodes, env.metrics).success_rate

    assert survival(1.0) == 1.0
    assert survival(0.0) == 0.0


@pytest.fixture(scope="module")
def designed(tmp_path_factory):
    require_installed("stable_baselines3")
    folder = tmp_path_factory.mktemp("lqr")
    config = folder / "one.yaml"
    config.write_text("episodes: 1\n")
    request = TrainingRequest(
        algorithm="lqr", environment="balance/Balance-v0", output=folder / "lqr", config=config, runs=folder / "runs"
    )
    return request, train(request)


def test_the_policy_is_the_gain_on_a_limited_speed_error(designed, gain):
    actor = read_checkpoint(designed[0].output / "policy.zip")
    assert [len(weights) for weights in actor.weights] == [5, 2]
    observations = np.random.default_rng(0).uniform(-1, 1, (1000, 6)).astype(np.float32)
    limited = observations.copy()
    limited[:, 4] = np.clip(limited[:, 4], -20 / 60, 20 / 60)
    expected = np.clip(limited @ observation_gain(gain, CONFIG).T, -1, 1)
    np.testing.assert_allclose(actor.act_batch(observations), expected, atol=1e-5)


def test_it_is_designed_for_the_nominal_robot_whatever_the_environment_throws(gain):
    thrown = envs.config_for("balance/BalanceBlocks-v0")
    settings = read_layers("lqr", [BalanceEnv.training_configs])
    del settings["episodes"]
    np.testing.assert_array_equal(feedback(settings_from_dict(LqrConfig, settings), thrown), gain)


def test_the_record_says_what_it_is(designed):
    record = json.loads((designed[0].output / "training.json").read_text())
    assert record["algorithm"] == "lqr"
    assert record["success_rate"] == 1.0
    assert record["rebuild"].startswith("hil train lqr -e balance/Balance-v0 --config ")
    assert designed[1].tensorboard is None


def test_the_same_design_gives_the_same_bytes(designed, tmp_path):
    again = train(replace(designed[0], output=tmp_path / "lqr"))
    assert (again.output / "policy.zip").read_bytes() == (designed[0].output / "policy.zip").read_bytes()


def test_options_of_learning_are_refused(designed):
    for option in ({"steps": 1000}, {"seed": 1}, {"resume": designed[0].output}):
        with pytest.raises(UsageError, match=f"--{next(iter(option))} does not apply to lqr"):
            train(replace(designed[0], **option))


def test_ppo_does_not_resume_it(designed, tmp_path):
    with pytest.raises(CheckpointError, match="of lqr, not of ppo"):
        train(replace(designed[0], algorithm="ppo", config=None, resume=designed[0].output, output=tmp_path / "ppo"))


@pytest.mark.parametrize(("line", "key"), [("pitch_rad: 0", "pitch_rad"), ("pich_rad: 1", "pitch_rad")])
def test_a_bad_weight_is_named(tmp_path, line, key):
    file = tmp_path / "bad.yaml"
    file.write_text(line + "\n")
    with pytest.raises(ConfigError, match=key):
        train(TrainingRequest(algorithm="lqr", environment="balance/Balance-v0", output=tmp_path / "lqr", config=file))
    assert not (tmp_path / "lqr").exists()
