"""The curriculum's schedule and how the options reach the episodes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.environment import open_environment
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.options import NOMINAL, Uniform, options_from_dict
from balance_hil.errors import ConfigError, UsageError
from balance_hil.settings import settings_from_dict
from balance_hil.training.curriculum import Curriculum
from balance_hil.training.plan import plan

TABLE = {
    "from_progress": 0.2,
    "until_progress": 0.6,
    "start": {"physics": {"friction": 0.9}},
    "end": {
        "physics": {"friction": [0.5, 1.2], "mass_scale": [0.8, 1.4]},
        "delays": {"observation_steps": [0, 4]},
        "pushes": {"impulse_n_s": [0.1, 0.3]},
    },
}


@pytest.fixture(scope="module")
def curriculum():
    return settings_from_dict(Curriculum, TABLE, "curriculum.")


@pytest.fixture(scope="module")
def at(curriculum):
    """Options of the balance robot at a progress of the training."""
    with open_environment("balance/Balance-v0") as environment:
        yield lambda progress: curriculum.options(environment, curriculum.growth(progress))


def test_it_begins_at_the_start_and_ends_at_the_end(at):
    assert at(0.0) == at(0.2) == options_from_dict(TABLE["start"])
    assert at(0.6) == at(1.0) == options_from_dict(TABLE["end"])


def test_half_way_every_range_is_half_way(at):
    half = at(0.4)
    assert half.physics.mass_scale == Uniform(low=0.9, high=1.2)
    assert half.physics.friction == Uniform(low=0.7, high=1.05)
    assert half.delays.observation_steps == Uniform(low=0, high=2)
    assert half.pushes.impulse_n_s == Uniform(low=0.05, high=0.15)
    assert half.motor == NOMINAL.motor


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20))
def test_it_only_grows(at, curriculum, progresses):
    ordered = sorted(progresses)
    assert all(curriculum.growth(a) <= curriculum.growth(b) for a, b in pairwise(ordered))

    def width(progress):
        value = at(progress).physics.mass_scale
        return value.high - value.low if isinstance(value, Uniform) else 0.0

    assert all(width(a) <= width(b) for a, b in pairwise(ordered))
    assert all(0.0 <= curriculum.growth(p) <= 1.0 for p in ordered)


def test_the_options_change_at_most_twenty_times(curriculum):
    growths = [curriculum.growth(steps / 1000) for steps in range(0, 1001, 10)]
    assert growths[0] == 0.0
    assert growths[-1] == 1.0
    assert len(set(growths)) <= 21


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"untill_progress": 0.5}, "untill_progress"),
        ({"until_progress": 1.5}, "1.5"),
        ({"from_progress": 0.7}, "backwards"),
        ({"start": {}}, "physics.friction"),
        ({"end": {"physics": {"mas_scale": 2}}}, "mas_scale"),
    ],
)
def test_what_is_wrong_is_named(change, key):
    with open_environment("balance/Balance-v0") as environment, pytest.raises(ConfigError) as error:
        settings_from_dict(Curriculum, {**TABLE, **change}, "curriculum.").options(environment, 0.5)
    assert key in error.value.message + error.value.hint


def test_a_typing_error_in_a_file_is_named_before_training(tiny, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(tiny.config.read_text() + "curriculum: {end: {physiks: {}}}\n")
    with pytest.raises(ConfigError, match="physiks"):
        plan(replace(tiny, config=file))


def test_an_environment_that_cannot_change_its_options_is_refused(curriculum):
    with (
        open_environment("CartPole-v1") as environment,
        pytest.raises(ConfigError, match="CartPole-v1 cannot change its options"),
    ):
        curriculum.options(environment, 0.5)


def test_episodes_take_new_options_at_their_next_start():
    batch = BalanceBatch("balance/Balance-v0", 2, 1, TABLE["end"])
    batch.change_options(options_from_dict({"sensors": {"pitch_bias_rad": 0.1}, "physics": {"friction": 0.9}}))
    biased = [batch.reset(i, seed=5, options={"tilt_rad": 0.0})[0] for i in range(2)]
    np.testing.assert_allclose(biased, 0.1 / 0.35, atol=0.06)
    batch.change_options(options_from_dict(TABLE["end"]))
    batch.step(np.zeros((2, 2), np.float32))  # the running episodes go on as they began
    assert abs(batch.reset(0, seed=5, options={"tilt_rad": 0.0})[0]) < 0.06


def test_options_that_need_another_model_are_refused():
    batch = BalanceBatch("balance/Balance-v0", 1, 1, TABLE["end"])
    for needs in ({"motor": {"lag_s": 0.01}}, {"blocks": {"sides": ["front"]}}, {"physics": {"ground_slope_rad": 0.1}}):
        with pytest.raises(UsageError, match="another model"):
            batch.change_options(options_from_dict(needs))
    with pytest.raises(UsageError, match="another model"):
        BalanceBatch("balance/Balance-v0", 1, 1).change_options(options_from_dict(TABLE["end"]))


def test_a_fall_costs_its_penalty_and_nothing_else_does():
    from balance_hil.training.vec_env import TrainingEnvs

    zero = np.zeros((3, 2), np.float32)
    opened = [open_environment("balance/Balance-v0", {"fall_penalty": penalty}) for penalty in (0.0, 100.0)]
    plain, strict = (TrainingEnvs(each, 3, 1000, (1, 0)) for each in opened)
    plain.reset()
    strict.reset()
    fallen = 0
    for _ in range(300):
        _, rewards, dones, _ = plain.step(zero)
        _, penalized, _, _ = strict.step(zero)
        np.testing.assert_allclose(rewards - penalized, 100.0 * dones, atol=1e-4)
        fallen += dones.sum()
    assert fallen > 0
