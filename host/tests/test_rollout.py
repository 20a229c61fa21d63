"""Rollouts with hand-written policies."""

import numpy as np
import pytest

from balance_hil.environment import open_environment
from balance_hil.envs.balance import make
from balance_hil.errors import NonFiniteInputError, UsageError
from balance_hil.metrics import EpisodeAccumulator
from balance_hil.rollout import EVALUATION_SEED_BASE, evaluation_seeds, rollout


def balancer(observations):
    """A PD controller on the observation: lean into the speed error, wheels after the lean."""
    pitch, rate, _, _, speed, yaw = observations.T
    lean = np.clip(0.3 * speed, -0.1, 0.1)
    common, turn = 2.0 * (0.35 * pitch - lean) + 0.5 * rate, 0.8 * yaw
    return np.stack([common - turn, common + turn], axis=1).astype(np.float32)


def faller(observations):
    return np.zeros((len(observations), 2), np.float32)


def test_a_balancer_survives_and_a_faller_does_not():
    up = rollout(balancer, open_environment("balance/Balance-v0"), [1, 2, 3], max_steps=400)
    down = rollout(faller, open_environment("balance/Balance-v0"), [1, 2, 3], max_steps=400)
    assert [(m.seed, m.steps, m.failed) for m in up] == [(1, 400, False), (2, 400, False), (3, 400, False)]
    assert all(m.failed and 10 < m.steps < 400 and m.metrics["action_rate"] == 0.0 for m in down)


def test_it_is_the_same_as_stepping_the_environment():
    def balancer_of_some(observations):
        """Keeps up who tracks a positive speed, gives three times too much, and lets the others fall."""
        return balancer(observations) * 3.0 * (observations[:, 4:5] > 0)

    got = rollout(balancer_of_some, open_environment("balance/Balance-v0"), evaluation_seeds(6), max_steps=300)
    steps = [metrics.steps for metrics in got]
    assert steps != sorted(steps) != steps[::-1]  # they fall in no order, so that mixing them up would show
    for metrics in got:
        env = make("balance/Balance-v0", max_episode_steps=300)
        observation, _ = env.reset(seed=metrics.seed)
        accumulator = EpisodeAccumulator(metrics.seed, open_environment("balance/Balance-v0").metrics)
        done = terminated = False
        while not done:
            action = np.clip(balancer_of_some(observation[np.newaxis])[0], -1, 1)
            observation, reward, terminated, truncated, info = env.step(action)
            accumulator.add(action, reward, info)
            done = terminated or truncated
        assert metrics == accumulator.finish(terminated)


def test_the_number_of_threads_changes_nothing():
    one, two = (
        rollout(balancer, open_environment("balance/Balance-v0"), [5, 6, 7, 8], max_steps=60, n_threads=n) for n in (1, 2)
    )
    assert one == two


def test_on_step_sees_what_the_policy_saw_and_only_episodes_that_are_up():
    seen = []
    metrics = rollout(faller, open_environment("balance/Balance-v0"), [1, 2, 3, 4], max_steps=400, on_step=seen.append)
    assert [s.step for s in seen] == list(range(max(m.steps for m in metrics)))
    for step in seen:
        assert step.episodes == [i for i, m in enumerate(metrics) if m.steps > step.step]
        assert step.observations.shape == (len(step.episodes), 6)
        assert step.observations.dtype == step.outputs.dtype == np.float32
        assert step.outputs.shape == (len(step.episodes), 2)


def test_an_exception_of_on_step_ends_the_rollout():
    class StopNowError(Exception):
        pass

    def stop(step):
        if step.step == 3:
            raise StopNowError

    with pytest.raises(StopNowError):
        rollout(balancer, open_environment("balance/Balance-v0"), [1], on_step=stop)


def test_a_policy_that_answers_nan_is_refused():
    with pytest.raises(NonFiniteInputError):
        rollout(lambda o: np.full((len(o), 2), np.nan, np.float32), open_environment("balance/Balance-v0"), [1])


@pytest.mark.parametrize(("seeds", "steps"), [([], 10), ([1], 0)])
def test_a_rollout_of_nothing_is_refused(seeds, steps):
    with pytest.raises(UsageError):
        rollout(balancer, open_environment("balance/Balance-v0"), seeds, max_steps=steps)


def test_evaluation_seeds_start_where_training_never_is():
    assert evaluation_seeds(3) == [EVALUATION_SEED_BASE, EVALUATION_SEED_BASE + 1, EVALUATION_SEED_BASE + 2]
