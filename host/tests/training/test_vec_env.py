"""The training episodes as Stable-Baselines3 sees them."""

from dataclasses import replace

import numpy as np
import pytest

from balance_hil.environment import open_environment
from balance_hil.envs.balance import make
from balance_hil.spec import ActionMap, PolicySpec, Signal

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")

from balance_hil.training.vec_env import TrainingEnvs


def training_envs(n, episode_steps, entropy, **options):
    return TrainingEnvs(open_environment("balance/Balance-v0", options), n, episode_steps, entropy)


ZERO = np.zeros((3, 2), np.float32)


def test_it_does_what_the_environment_does():
    env, alone = training_envs(2, 1000, (1, 0)), make("balance/Balance-v0").unwrapped
    observations = env.reset()
    alone.reset(seed=0)
    alone._np_random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((1, 0, 1))))
    np.testing.assert_array_equal(observations[1], alone.reset()[0])
    for _ in range(5):
        observations, rewards, dones, infos = env.step(ZERO[:2])
        observation, reward, _, _, info = alone.step(ZERO[0])
        np.testing.assert_array_equal(observations[1], observation)
        assert rewards.dtype == np.float32
        assert rewards[1] == np.float32(reward)
        assert not dones.any()
        assert infos[1] == info


def test_an_episode_that_is_cut_off_says_so_and_starts_anew():
    env = training_envs(3, 4, (1, 0))
    env.reset()
    returns = np.zeros(3)
    for _ in range(4):
        observations, rewards, dones, infos = env.step(ZERO)
        returns += rewards
    assert dones.all()
    for i, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        assert info["episode"]["l"] == 4
        assert info["episode"]["r"] == pytest.approx(returns[i], rel=1e-6)
        assert not np.array_equal(info["terminal_observation"], observations[i])
    assert abs(observations[0][2]) < 0.02  # a new episode: the wheels are at rest
    assert not env.step(ZERO)[2].any()


def test_a_fall_is_not_a_truncation():
    env = training_envs(3, 1000, (1, 0))
    env.reset()
    done_infos = []
    while len(done_infos) < 3:
        _, _, dones, infos = env.step(ZERO)
        done_infos += [info for done, info in zip(dones, infos, strict=True) if done]
    assert not any(info["TimeLimit.truncated"] for info in done_infos)


def test_episodes_differ_from_one_another_and_repeat_with_the_same_entropy():
    first, again, other = (training_envs(3, 50, entropy).reset() for entropy in ((1, 0), (1, 0), (1, 64)))
    np.testing.assert_array_equal(first, again)
    assert len({row.tobytes() for row in np.concatenate([first, other])}) == 6


def test_stable_baselines_cannot_reseed_it():
    env, other = training_envs(2, 50, (1, 0)), training_envs(2, 50, (1, 0))
    env.seed(99)
    np.testing.assert_array_equal(env.reset(), other.reset())


def test_an_episode_that_leaves_the_observed_range_is_over_when_that_is_wanted():
    spin = np.tile(np.array([1.0, -1.0], np.float32), (3, 1))
    for wanted in (False, True):
        env = training_envs(3, 1000, (1, 0), end_out_of_range=wanted)
        env.reset()
        ends = []
        for _ in range(60):
            _, _, dones, infos = env.step(spin)
            ends += [
                info
                for done, info in zip(dones, infos, strict=True)
                if done and abs(info["wheel_speed_difference_error_rad_s"]) > 40.0
            ]
        assert bool(ends) == wanted
        assert not any(info["TimeLimit.truncated"] for info in ends)


def test_far_starts_are_those_of_the_environment_and_a_share_of_all():
    def steepest(share):
        environment = open_environment("balance/Balance-v0")
        return np.abs(TrainingEnvs(environment, 64, 100, (1, 0), far_starts=share).reset()[:, 0] * 0.35)

    near, some, all_far = steepest(0.0), steepest(0.5), steepest(1.0)
    assert near.max() < 0.23  # the task's 0.2 rad, and the sensor's noise
    assert all_far.max() > 0.3
    assert 0 < np.sum(some != near) < 64
    assert np.sum(all_far != near) == 64


def test_actions_are_what_the_policys_outputs_stand_for():
    box = PolicySpec(
        environment="",
        observation=(),
        action=tuple(Signal(index=i, name=f"act_{i}", unit="", min=-1.0, max=1.0) for i in range(2)),
        control_period_s=0.1,
        action_map=ActionMap.of_box(np.array([[-0.5], [2.0]]), np.array([[0.5], [8.0]])),
    )
    actions = np.array([[[0.25], [2.0]], [[-0.5], [5.0]]])
    np.testing.assert_allclose(box.outputs_for(actions), [[0.5, -1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(box.action_map(box.outputs_for(actions)), actions)
    discrete = replace(box, action_map=ActionMap(kind="discrete", dtype="int64"))
    np.testing.assert_array_equal(discrete.action_map(discrete.outputs_for(np.array([1, 0]))), [1, 0])


def test_the_latest_step_can_be_done_again():
    env = training_envs(2, 1000, (1, 0))
    env.reset()
    for _ in range(20):
        observations, *_ = env.step(np.full((2, 2), 0.3, np.float32))
    step = env.latest_step()
    alone = make("balance/Balance-v0").unwrapped
    alone.reset(seed=0)
    alone.data.qpos[:], alone.data.qvel[:], alone.data.ctrl[:] = step["qpos"][1], step["qvel"][1], step["ctrl"][1]
    alone._task._command_left, alone._task._command_right = step["ctrl"][1]
    observation, *_ = alone.step(step["actions"][1])
    np.testing.assert_array_equal(step["observations"], observations)
    np.testing.assert_allclose(observation[1:4], observations[1][1:4], atol=0.05)  # the noise is another
