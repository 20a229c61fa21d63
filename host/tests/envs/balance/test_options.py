"""Options of the robot: what a file may say, and what the numbers do."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil.envs.balance import make
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.options import (
    N_SAMPLED,
    NOMINAL,
    SIDES,
    RobotOptions,
    Uniform,
    _quantities,
    load_options,
    options_from_dict,
)
from balance_hil.errors import ConfigError

EVERYTHING = {
    "physics": {
        "mass_scale": [0.85, 1.15],
        "friction": [0.5, 1.2],
        "com_offset_x_m": [-0.006, 0.006],
        "com_offset_z_m": [-0.006, 0.006],
        "ground_slope_rad": [-0.05, 0.05],
    },
    "motor": {
        "armature_kg_m2": [0.8e-4, 1.2e-4],
        "damping_nm_s_rad": 6e-4,
        "torque_limit_nm": 0.28,
        "servo_gain_scale": [0.6, 1.4],
        "lag_s": [0.0, 0.01],
        "dead_band_rad_s": 0.3,
        "dry_friction_nm": [0.0, 0.01],
    },
    "battery": {"voltage_v": [6.8, 8.4]},
    "sensors": {
        "imu_noise_scale": [0.5, 2.0],
        "encoder_noise_scale": 0.5,
        "pitch_bias_rad": [-0.02, 0.02],
        "gyro_bias_rad_s": 0.01,
        "gyro_bias_walk_rad_s_sqrt_s": 0.01,
        "encoder_ticks_per_rev": 1320,
    },
    "delays": {"observation_steps": [0, 2], "observation_jitter_steps": 1, "action_steps": [0, 2]},
    "pushes": {"impulse_n_s": [0.0, 0.1], "interval_s": [0.1, 0.3]},
    "blocks": {"sides": ["front", "back"], "interval_s": 1.0},
}


def trajectory(environment, options, seeds=(0, 7, 10_000), steps=300):
    """What a random policy sees, as one hash; the physics as well."""
    digest = hashlib.sha256()
    env = make(environment, options=options).unwrapped
    rng = np.random.default_rng(0)
    for seed in seeds:
        digest.update(env.reset(seed=seed)[0].tobytes())
        for _ in range(steps):
            observation, reward, terminated, _, _ = env.step(rng.uniform(-1, 1, 2).astype(np.float32))
            digest.update(observation.tobytes() + np.float64(reward).tobytes() + env.data.qpos.tobytes())
            if terminated:
                env.reset()
    return digest.hexdigest()


# --- nothing changes where nothing is asked for ------------------------------------------------------------------------

BEFORE_THERE_WERE_OPTIONS = "6b45481b41ce78115798f5a8d5d17f3d9d7240a2cd6a180a9a7d3422db41468a"


def test_env01_is_bit_for_bit_what_it_was_before_there_were_options():
    assert trajectory("balance/Balance-v0", None) == BEFORE_THERE_WERE_OPTIONS


def test_options_at_their_defaults_are_no_options():
    assert make("balance/Balance-v0", options=RobotOptions()).unwrapped.robot is None
    assert not BalanceBatch("balance/Balance-v0", 2, options={})._robots


def test_quantities_that_only_repeat_the_model_change_no_number():
    nominal = {
        "physics": {"friction": 0.9},
        "motor": {"armature_kg_m2": 1e-4, "damping_nm_s_rad": 5e-4, "torque_limit_nm": 0.3, "servo_gain_nm_s_rad": 0.2},
    }
    assert trajectory("balance/Balance-v0", nominal) == BEFORE_THERE_WERE_OPTIONS


# --- env and batch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [*([name] for name in EVERYTHING), list(EVERYTHING)], ids=lambda groups: "+".join(groups))
def test_a_batch_is_bit_for_bit_as_many_environments(groups):
    options = {name: EVERYTHING[name] for name in groups}
    seeds = [3, 10_000, 7]
    envs = [make("balance/Balance-v0", options=options).unwrapped for _ in seeds]
    batch = BalanceBatch("balance/Balance-v0", len(seeds), n_threads=2, options=options)
    for i, (env, seed) in enumerate(zip(envs, seeds, strict=True)):
        np.testing.assert_array_equal(batch.reset(i, seed), env.reset(seed=seed)[0])
    rng = np.random.default_rng(0)
    for step in range(250):
        actions = rng.uniform(-1, 1, (len(seeds), 2)).astype(np.float32) * 0.5
        for i, (env, action, got) in enumerate(zip(envs, actions, batch.step(actions), strict=True)):
            expected = env.step(action)
            np.testing.assert_array_equal(got[0], expected[0])
            assert got[1:] == expected[1:]
            if got[2] or step == 200:  # in the middle of pushes and flights, too
                np.testing.assert_array_equal(batch.reset(i), env.reset()[0])


def test_every_reset_draws_another_robot_and_a_seed_repeats_it():
    env = make(
        "balance/Balance-v0", options={"physics": {"mass_scale": [0.5, 1.5]}, "delays": {"observation_steps": [0, 4]}}
    ).unwrapped
    robots = []
    for seed in (1, None, None, 1, None):
        env.reset(seed=seed)
        robots.append(env.robot.sampled)
        assert env.model.body_mass[1] == pytest.approx(0.56 * env.robot.sampled.physics.mass_scale)
    assert robots[0] == robots[3] != robots[1] == robots[4] != robots[2]


def test_the_start_and_the_targets_of_a_seed_do_not_depend_on_the_options():
    for options in (None, EVERYTHING, {"pushes": {"impulse_n_s": 0.1}}):
        _, info = make("balance/Balance-v0", options=options).reset(seed=5)
        assert info == make("balance/Balance-v0").reset(seed=5)[1]


def test_fixing_one_range_leaves_the_other_draws_as_they_were():
    ranges = {"physics": {"mass_scale": [0.5, 1.5], "friction": [0.5, 1.2]}}
    one_fixed = {"physics": {"mass_scale": 1.0, "friction": [0.5, 1.2]}}
    frictions = []
    for options in (ranges, one_fixed):
        env = make("balance/Balance-v0", options=options).unwrapped
        env.reset(seed=3)
        frictions.append(env.robot.sampled.physics.friction)
    assert frictions[0] == frictions[1]


# --- what a file may say ------------------------------------------------------------------------------------------------


def values(limits):
    low, high = limits.low, min(limits.high, limits.low + 1000)
    numbers = st.integers(int(low), int(high)) if limits.whole else st.floats(low, high)
    return st.one_of(numbers, st.lists(numbers, min_size=2, max_size=2).map(sorted))


ENTRIES = st.sampled_from(_quantities()).flatmap(lambda q: st.tuples(st.just(q[0]), st.just(q[1]), values(q[2])))
ANYTHING = st.none() | st.booleans() | st.floats() | st.sampled_from(["", "1", "x"]) | st.lists(st.floats(), max_size=3)


@settings(max_examples=40, deadline=None)
@given(entries=st.lists(ENTRIES, max_size=4), seed=st.integers(0, 9), sides=st.sampled_from([[], ["back"], list(SIDES)]))
def test_a_table_becomes_options_and_a_draw_stays_in_range(tmp_path_factory, entries, seed, sides):
    table = {"blocks": {"sides": sides}}
    for group, name, value in entries:
        table.setdefault(group, {})[name] = value
    fractions = np.random.default_rng(seed).random(N_SAMPLED).tolist()
    options = options_from_dict(table)
    assert options_from_dict(options.to_dict()) == options
    file = tmp_path_factory.mktemp("options") / "options.yaml"
    file.write_text(yaml.safe_dump(table))
    assert load_options(file) == options
    sampled = options.sampled(fractions)
    for group, name, limits in _quantities():
        asked, got = getattr(getattr(options, group), name), getattr(getattr(sampled, group), name)
        if isinstance(asked, Uniform) and not isinstance(got, Uniform):
            assert asked.low <= got <= asked.high
            assert not limits.whole or got == int(got)
        else:
            assert got == asked


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=8).filter(lambda name: name not in vars(NOMINAL)), ANYTHING)
def test_an_unknown_group_is_refused_whatever_it_holds(group, value):
    with pytest.raises(ConfigError, match="unknown option"):
        options_from_dict({group: value})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(_quantities()), ANYTHING)
def test_a_value_is_taken_within_its_limits_or_refused_by_name(where, value):
    group, name, limits = where
    try:
        options = options_from_dict({group: {name: value}})
    except ConfigError as exc:
        complaint = exc.message
    else:
        got = getattr(getattr(options, group), name)
        for end in (got.low, got.high) if isinstance(got, Uniform) else (got,):
            assert (end is None and limits.optional) or limits.low <= end <= limits.high
        return
    assert f"{group}.{name}" in complaint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("physic: {friction: 1}", "unknown option 'physic' in FILE, did you mean 'physics'"),
        ("physics: {fricton: 1}", "unknown option 'physics.fricton' in FILE, did you mean 'physics.friction'"),
        ("physics: 3", "'physics' of FILE is 3, it must be a table"),
        ("physics: {friction: wet}", "'physics.friction' holds 'wet', it must be a number"),
        ("physics: {friction: [1, 2, 3]}", "'physics.friction' is [1, 2, 3], a range is [low, high]"),
        ("physics: {friction: [1.2, 0.5]}", "'physics.friction' is upside down: 1.2 to 0.5"),
        ("physics: {friction: -1}", "'physics.friction' is -1.0, it must be within 0..5"),
        ("physics: {mass_scale: .nan}", "'physics.mass_scale' is nan"),
        ("physics: {mass_scale: null}", "'physics.mass_scale' is None"),
        ("delays: {action_steps: 1.5}", "'delays.action_steps' is 1.5, it must be a whole number"),
        ("blocks: {sides: [frnt]}", "unknown side 'frnt' in 'blocks.sides', did you mean 'front'"),
        ("- friction", "FILE is not a table"),
        ("physics: [", "FILE is not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_the_key(tmp_path, text, message):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message.replace("FILE", str(file)))):
        load_options(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        load_options(tmp_path / "none.yaml")


def test_a_file_says_what_differs_from_its_base(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("physics: {friction: 0.7}")
    base = options_from_dict({"physics": {"mass_scale": 1.1, "friction": 0.5}, "delays": {"action_steps": 1}})
    options = load_options(file, base)
    assert (options.physics.mass_scale, options.physics.friction, options.delays.action_steps) == (1.1, 0.7, 1.0)
    file.write_text("")
    assert load_options(file, base) == base


def test_options_cannot_be_changed_and_are_hashable():
    assert hash(NOMINAL) == hash(RobotOptions())
    with pytest.raises(dataclasses.FrozenInstanceError):
        NOMINAL.physics = None
