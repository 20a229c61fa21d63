"""balance/Balance-v0 against its documentation."""

import dataclasses
import math
import re

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import balance_hil.envs.balance
from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.envs.balance import CATALOG, config_for, make
from balance_hil.envs.balance.config import BalanceConfig, SensorNoise
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.task import REWARD_TERMS
from balance_hil.errors import (
    DisplayMissingError,
    NonFiniteInputError,
    SimulationDivergedError,
    UnknownEnvironmentError,
    UsageError,
)

NOISELESS = BalanceConfig(noise=SensorNoise(pitch_rad=0.0, pitch_rate_rad_s=0.0, wheel_speed_rad_s=0.0))
STILL = {"tilt_rad": 0.0, "speed_target_rad_s": 0.0, "wheel_speed_difference_target_rad_s": 0.0}


def episode(env, seed, steps, options=None):
    rng = np.random.default_rng(5)
    observation, info = env.reset(seed=seed, options=options)
    rows = [(observation, 0.0, False, info)]
    for _ in range(steps):
        observation, reward, terminated, _, info = env.step(rng.uniform(-1, 1, 2).astype(np.float32))
        rows.append((observation, reward, terminated, info))
    return rows


def same(a, b):
    return all(np.array_equal(x[0], y[0]) and x[1:] == y[1:] for x, y in zip(a, b, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("environment", CATALOG)
def test_gymnasium_accepts_it(environment):
    from gymnasium.utils.env_checker import check_env

    check_env(make(environment).unwrapped, skip_render_check=True)


@pytest.mark.filterwarnings("error::UserWarning:stable_baselines3")
def test_stable_baselines_accepts_it():
    keep_tensorflow_out()
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="pip install 'balance-hil[train]'")
    checker.check_env(make("balance/Balance-v0"))


@pytest.mark.parametrize("environment", CATALOG)
def test_the_same_seed_gives_the_same_episode(environment):
    first, again, other = (episode(make(environment), seed, 120) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("environment", CATALOG)
def test_an_episode_does_not_depend_on_the_one_before(environment):
    env = make(environment)
    episode(env, 9, 437)
    assert same(episode(env, 3, 50), episode(make(environment), 3, 50))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tilt=st.floats(-0.87, 0.87),
    speed=st.floats(-80, 80),
    yaw=st.floats(-80, 80),
    actions=st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=60),
)
def test_an_observation_never_leaves_its_box(seed, tilt, speed, yaw, actions):
    env = BalanceEnv(config=BalanceConfig(noise=SensorNoise(pitch_rad=0.5, pitch_rate_rad_s=5.0, wheel_speed_rad_s=90.0)))
    observation, _ = env.reset(
        seed=seed, options={"tilt_rad": tilt, "speed_target_rad_s": speed, "wheel_speed_difference_target_rad_s": yaw}
    )
    assert observation in env.observation_space
    for action in actions:
        observation = env.step(np.array(action, np.float32))[0]
        assert observation in env.observation_space


def test_noise_is_in_the_observation_and_nowhere_else():
    noisy = BalanceConfig(noise=SensorNoise(pitch_rad=0.1, pitch_rate_rad_s=1.0, wheel_speed_rad_s=5.0))
    with_noise, without = episode(BalanceEnv(config=noisy), 1, 80), episode(BalanceEnv(config=NOISELESS), 1, 80)
    assert [row[1:] for row in with_noise] == [row[1:] for row in without]
    assert not any(np.array_equal(a[0], b[0]) for a, b in zip(with_noise, without, strict=True))


def test_observation_means_what_the_table_says():
    env = BalanceEnv(config=NOISELESS)
    env.reset(seed=1, options={"tilt_rad": 0.1, "speed_target_rad_s": 12.0, "wheel_speed_difference_target_rad_s": -3.0})
    for _ in range(10):
        observation, *_ = env.step(np.array([0.5, -0.2], np.float32))
    mujoco.mj_kinematics(env.model, env.data)
    up_forward, up_up = env.data.body("robot").xmat[6:9:2]  # how far the robot's x and z axes point up
    left, right = env.data.joint("wheel_left").qvel[0], env.data.joint("wheel_right").qvel[0]
    physical = [
        math.atan2(-up_forward, up_up),
        env.data.joint("root").qvel[4],
        left,
        right,
        12.0 - (left + right) / 2,
        -3.0 - (right - left),
    ]
    scales = [signal.scale for signal in env.policy_spec.observation]
    np.testing.assert_allclose(observation, np.array(physical) / scales, atol=1e-6)
    assert observation[0] > 0.2  # tilted forward and falling forward


def test_pitch_does_not_depend_on_heading():
    env = BalanceEnv(config=NOISELESS)
    env.reset(seed=1, options={**STILL, "tilt_rad": 0.3})
    turned = np.zeros(4)
    mujoco.mju_mulQuat(turned, np.array([math.cos(0.6), 0, 0, math.sin(0.6)]), env.data.qpos[3:7].copy())
    env.data.qpos[3:7] = turned
    assert env.finish_step()[4]["pitch_rad"] == pytest.approx(0.3)


def test_positive_actions_roll_the_wheels_forward():
    env = BalanceEnv(config=NOISELESS)
    env.reset(seed=1, options=STILL)
    for _ in range(10):
        env.step(np.array([1.0, 1.0], np.float32))
    assert env.data.qvel[6] > 1.0
    assert env.data.qvel[7] > 1.0
    assert env.data.qpos[0] > 0.0


def test_command_stays_within_8_rad_s_of_the_measured_speed():
    env = BalanceEnv(config=NOISELESS)
    env.reset(seed=1, options=STILL)
    for _ in range(20):
        env.apply_action([1.0, -1.0])  # without letting the physics follow
    np.testing.assert_allclose(env.data.ctrl, [8.0, -8.0])


def test_an_action_beyond_one_counts_as_one():
    a, b = BalanceEnv(config=NOISELESS), BalanceEnv(config=NOISELESS)
    for env in (a, b):
        env.reset(seed=1)
    np.testing.assert_array_equal(a.step(np.array([5.0, -9.0]))[0], b.step(np.array([1.0, -1.0]))[0])


def test_reward_is_the_documented_sum_of_true_terms():
    env = make("balance/Balance-v0")
    env.reset(seed=2)
    before = np.zeros(2)
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, 2).astype(np.float32).astype(float)
        _, reward, _, _, info = env.step(action)
        e, y, pitch = info["speed_error_rad_s"], info["wheel_speed_difference_error_rad_s"], info["pitch_rad"]
        lean = np.clip(0.005 * e, -0.15, 0.15)
        expected = {
            "alive": 0.2,
            "speed": 0.15 / (1 + (e / 5) ** 2) + 0.15 * (1 - min(1, abs(e) / 60)),
            "yaw": 0.1 / (1 + (y / 3) ** 2) + 0.1 * (1 - min(1, abs(y) / 40)),
            "lean": 0.3 / (1 + ((pitch - lean) / 0.06) ** 2),
            "action_rate": -0.2 * np.sum((action - before) ** 2),
            "action_size": -0.01 * np.sum(action**2),
        }
        assert {term: info[f"reward_{term}"] for term in REWARD_TERMS} == pytest.approx(expected)
        assert reward == pytest.approx(sum(expected.values()))
        before = action


def test_it_ends_when_the_robot_falls_beyond_50_degrees():
    env = make("balance/Balance-v0")
    env.reset(seed=0, options={"tilt_rad": 0.8})
    steps = 0
    terminated = False
    while not terminated:
        _, _, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        steps += 1
        assert terminated == (abs(info["pitch_rad"]) > math.radians(50))
        assert not truncated
        assert steps < 1000


@pytest.mark.parametrize("environment", CATALOG)
def test_it_is_cut_off_after_6000_steps(environment):
    assert gym.spec(environment).max_episode_steps == 6000


def test_targets_change_after_at_most_4_5_s_unless_they_are_fixed():
    env = BalanceEnv(config=NOISELESS)
    _, info = env.reset(seed=0, options={"speed_target_rad_s": 7.0})
    speeds, yaws = set(), set()
    for _ in range(901):
        info = env.finish_step()[4]
        speeds.add(info["speed_error_rad_s"])
        yaws.add(info["wheel_speed_difference_error_rad_s"])
    assert speeds == {7.0}
    assert 2 <= len(yaws) <= 4


def test_fixing_the_tilt_leaves_the_targets_as_they_were():
    env = BalanceEnv(config=NOISELESS)
    _, free = env.reset(seed=0)
    _, fixed = env.reset(seed=0, options={"tilt_rad": 0.0})
    assert fixed["pitch_rad"] == 0.0 != free["pitch_rad"]
    assert fixed["speed_error_rad_s"] == free["speed_error_rad_s"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tilt": 0.1}, "unknown reset option 'tilt', did you mean 'tilt_rad'"),
        ({"color": 1}, "unknown reset option 'color'"),
        ({"tilt_rad": 2.0}, "tilt_rad is 2.0"),
        ({"tilt_rad": math.nan}, "tilt_rad is nan"),
        ({"speed_target_rad_s": "fast"}, "speed_target_rad_s is 'fast'"),
        ({"wheel_speed_difference_target_rad_s": -81}, "wheel_speed_difference_target_rad_s is -81"),
    ],
)
def test_a_bad_reset_option_is_named(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        make("balance/Balance-v0").reset(options=options)


@pytest.mark.parametrize("action", [[math.nan, 0.0], [0.0, math.inf], [-math.inf, math.inf]])
def test_an_action_that_is_not_finite_is_refused(action):
    env = make("balance/Balance-v0")
    env.reset(seed=0)
    with pytest.raises(NonFiniteInputError, match="not finite"):
        env.step(np.array(action, np.float32))


@pytest.mark.parametrize("size", [0, 1, 3])
def test_an_action_of_another_length_is_refused(size):
    env = make("balance/Balance-v0")
    env.reset(seed=0)
    with pytest.raises(UsageError, match=f"this one has {size}"):
        env.step(np.zeros(size, np.float32))


@pytest.mark.parametrize("value", [math.nan, 1e200])
def test_a_diverged_simulation_is_named_and_not_restarted(value):
    env = BalanceEnv()
    env.reset(seed=0)
    env.data.qvel[0] = value
    with pytest.raises(SimulationDivergedError, match="diverged"):
        env.step(np.zeros(2, np.float32))


def test_the_halves_of_a_step_make_a_step():
    whole, halves = BalanceEnv(), BalanceEnv()
    whole.reset(seed=6)
    halves.reset(seed=6)
    action = np.array([0.3, -0.6], np.float32)
    for _ in range(20):
        expected = whole.step(action)
        halves.apply_action(action)
        halves.advance(2)
        halves.advance(3)
        got = halves.finish_step()
        np.testing.assert_array_equal(got[0], expected[0])
        assert got[1:] == expected[1:]
    assert halves.substeps * halves.physics_timestep_s == halves.control_period_s == 0.005


def test_what_is_only_seen_changes_no_number():
    assert same(episode(BalanceEnv(render_mode="rgb_array"), 3, 100), episode(BalanceEnv(), 3, 100))


def test_the_docstring_has_the_numbers_of_the_spec():
    rows = re.findall(r"\| (\d) +\| .+?\| -1 +\| 1 +\| ([\d.]+) rad(?:/s)? +\|", BalanceEnv.__doc__)
    spec = config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")
    expected = [(str(s.index), f"{s.scale:g}") for s in (*spec.action, *spec.observation)]
    assert rows == expected


@pytest.mark.parametrize("environment", CATALOG)
def test_the_spec_fits_the_spaces(environment):
    env = make(environment)
    spec = config_for(environment).policy_spec(environment)
    assert env.unwrapped.policy_spec == spec
    assert env.observation_space.shape == (spec.n_obs,)
    assert env.action_space.shape == (spec.n_act,)
    np.testing.assert_array_equal(env.observation_space.high, [s.max for s in spec.observation])
    np.testing.assert_array_equal(env.action_space.low, [s.min for s in spec.action])


def test_a_variant_needs_only_another_config():
    slow = dataclasses.replace(BalanceConfig(), physics_timestep_s=0.0005, substeps_per_step=10)
    env = BalanceEnv("Slow-v1", slow)
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    assert env.data.time == pytest.approx(0.005)
    assert env.policy_spec.environment == "Slow-v1"


@pytest.mark.parametrize("call", [config_for])
@pytest.mark.parametrize(
    ("name", "guess"), [("balance/Balance-v1", "did you mean 'balance/Balance-v0'"), ("Balance-v0", "did you mean"), ("Pong", "")]
)
def test_an_unknown_environment_is_named(call, name, guess):
    with pytest.raises(UnknownEnvironmentError, match=f"unknown environment of the balance robot: '{name}'.*{guess}"):
        call(name)


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(UsageError, match="ansi"):
        BalanceEnv(render_mode="ansi")


def test_a_window_without_a_display_is_refused(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DisplayMissingError, match="no display"):
        make("balance/Balance-v0", render_mode="human")


def test_gymnasium_can_write_its_spec_down_and_make_it_again():
    spec = gym.envs.registration.EnvSpec.from_json(make("balance/Balance-v0").spec.to_json())
    assert gym.make(spec).unwrapped.policy_spec == config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")


def test_registering_twice_is_harmless():
    balance_hil.envs.register()
