"""Episodes side by side against one at a time."""

import numpy as np
import pytest

from balance_hil.envs.balance import make
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.errors import NonFiniteInputError, UnknownEnvironmentError, UsageError


def assert_same_step(got, expected):
    np.testing.assert_array_equal(got[0], expected[0])
    assert got[1:] == expected[1:]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_batch_is_bit_for_bit_as_many_environments(n_threads):
    seeds = [3, 10_000, 7, 12]
    envs = [make("balance/Balance-v0").unwrapped for _ in seeds]
    batch = BalanceBatch("balance/Balance-v0", len(seeds), n_threads)
    for i, (env, seed) in enumerate(zip(envs, seeds, strict=True)):
        np.testing.assert_array_equal(batch.reset(i, seed), env.reset(seed=seed)[0])
    rng = np.random.default_rng(0)
    falls = 0
    for _ in range(150):
        actions = rng.uniform(-1, 1, (len(seeds), 2)).astype(np.float32)
        for i, (env, action, got) in enumerate(zip(envs, actions, batch.step(actions), strict=True)):
            assert_same_step(got, env.step(action))
            if got[2]:
                falls += 1
                np.testing.assert_array_equal(batch.reset(i), env.reset()[0])
    assert falls > 0


def test_only_the_episodes_that_are_named_advance():
    batch, alone = BalanceBatch("balance/Balance-v0", 3), make("balance/Balance-v0").unwrapped
    for i in range(3):
        batch.reset(i, i)
    alone.reset(seed=1)
    actions = np.full((2, 2), 0.5, np.float32)
    for _ in range(5):
        batch.step(actions, [0, 2])
    assert_same_step(batch.step(actions[:1], [1])[0], alone.step(actions[0]))


def test_reset_options_reach_the_episode():
    with pytest.raises(UsageError, match="tilt_deg"):
        BalanceBatch("balance/Balance-v0", 1).reset(0, 0, {"tilt_deg": 1})


def test_an_action_that_is_not_finite_is_refused():
    batch = BalanceBatch("balance/Balance-v0", 2)
    with pytest.raises(NonFiniteInputError):
        batch.step(np.array([[0, 0], [np.nan, 0]], np.float32))


def test_an_unknown_environment_is_named():
    with pytest.raises(UnknownEnvironmentError):
        BalanceBatch("Env02-v9", 1)
