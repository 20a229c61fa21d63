"""The seam: what any Gymnasium environment becomes, and what is refused by name."""

import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from balance_hil.environment import open_environment, open_for, require_control_steps, resolve
from balance_hil.envs import ALIASES
from balance_hil.errors import (
    ConfigError,
    EnvironmentMismatchError,
    HarnessError,
    NonFiniteInputError,
    SimulationDivergedError,
    UnknownEnvironmentError,
    UnsupportedEnvironmentError,
    UsageError,
)
from balance_hil.metrics import DEFAULT_METRICS
from balance_hil.rollout import rollout

from .robots import write_robot

MUJOCO = ("InvertedPendulum-v5", "HalfCheetah-v5", "Hopper-v5", "Swimmer-v5", "Ant-v5")


@pytest.fixture(scope="module", params=["Euler", "RK4"])
def robot(request, tmp_path_factory):
    """The name of a package of somebody else's, importable."""
    folder = tmp_path_factory.mktemp("robots")
    name = write_robot(folder, f"somebots_{request.param.lower()}", request.param)
    sys.path.insert(0, str(folder))
    yield name
    sys.path.remove(str(folder))


@pytest.fixture
def registered():
    """Registers an environment for one test."""
    names = []

    def register(name, entry_point, **kwargs):
        gym.register(name, entry_point, **kwargs)
        names.append(name)
        return name

    yield register
    for name in names:
        del gym.registry[name]


def toy(observation_space=None, action_space=None, **attributes):
    """A class of environments with these spaces and attributes."""

    class Toy(gym.Env):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.reset_options = options
            return self.observation_space.sample(), {}

        def step(self, action):
            self.action = action
            return self.observation_space.sample(), 1.0, False, False, {}

    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    Toy.observation_space, Toy.action_space = observation_space or box, action_space or box
    for key, value in {"control_period_s": 0.02, **attributes}.items():
        setattr(Toy, key, value)
    return Toy


# --- what an environment becomes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "n_obs", "n_act", "period_s", "substeps", "steps"),
    [
        ("CartPole-v1", 4, 2, 0.02, 1, 500),
        ("Pendulum-v1", 3, 1, 0.05, 1, 200),
        ("Acrobot-v1", 6, 3, 0.2, 1, 500),
        ("InvertedPendulum-v5", 4, 1, 0.04, 2, 1000),
        ("HalfCheetah-v5", 17, 6, 0.05, 5, 1000),
        ("balance/Balance-v0", 6, 2, 0.005, 5, 6000),
    ],
)
def test_an_environment_of_gymnasium_is_a_plant(environment, n_obs, n_act, period_s, substeps, steps):
    with open_environment(environment) as env:
        spec = env.spec
        assert (spec.environment, spec.n_obs, spec.n_act, spec.episode_steps) == (environment, n_obs, n_act, steps)
        assert (spec.control_period_s, env.substeps) == (pytest.approx(period_s), substeps)
        assert env.reset(3).tolist() == env.reset(3).tolist()
        assert env.step(np.zeros(n_act, np.float32)).observation.shape == (n_obs,)


def test_a_box_is_reached_from_outputs_within_one(registered):
    space = gym.spaces.Box(np.array([[-2.0, 0.0]], np.float32), np.array([[2.0, 10.0]], np.float32))
    name = registered("toy/Box-v0", toy(action_space=space))
    with open_environment(name) as env:
        env.reset(0)
        for outputs, action in (([0, 0], [[0, 5]]), ([-1, 1], [[-2, 10]]), ([2, -3], [[2, 0]]), ([0.5, 0.5], [[1, 7.5]])):
            env.step(np.array(outputs, np.float32))
            np.testing.assert_array_equal(env.env.unwrapped.action, np.array(action, np.float32))
            assert env.env.unwrapped.action.dtype == np.float32
        assert [(s.name, s.min, s.max, s.scale) for s in env.spec.action] == [("act_0", -1, 1, 2), ("act_1", -1, 1, 5)]


def test_discrete_takes_the_lowest_of_the_largest_outputs(registered):
    name = registered("toy/Discrete-v0", toy(action_space=gym.spaces.Discrete(3)))
    with open_environment(name) as env:
        env.reset(0)
        for outputs, action in (([0, 1, 2], 2), ([5, 5, 1], 0), ([-3, -1, -1], 1)):
            env.step(np.array(outputs, np.float32))
            assert env.env.unwrapped.action == action


def test_a_held_step_keeps_the_action_in_force(registered):
    name = registered("toy/Hold-v0", toy())
    with open_environment(name) as env:
        env.reset(0)
        env.step(None)
        assert env.env.unwrapped.action.tolist() == [0.0, 0.0]
        env.step(np.array([0.25, -0.5], np.float32))
        env.step(None)
        assert env.env.unwrapped.action.tolist() == [0.25, -0.5]
        env.reset(1)
        env.step(None)
        assert env.env.unwrapped.action.tolist() == [0.0, 0.0]


def test_observations_of_any_shape_are_flattened_in_c_order(registered):
    space = gym.spaces.Box(-np.inf, np.array([[1.0, 2.0], [3.0, np.inf]]), (2, 2), np.float64)
    with open_environment(registered("toy/Shape-v0", toy(observation_space=space))) as env:
        assert [(s.name, s.min, s.max) for s in env.spec.observation] == [
            ("obs_0", None, 1.0),
            ("obs_1", None, 2.0),
            ("obs_2", None, 3.0),
            ("obs_3", None, None),
        ]
        assert env.reset(0).dtype == np.float32


def test_what_the_environment_says_of_itself_is_used(robot):
    with open_environment(f"{robot}:{robot}/Cart-v0") as env:
        assert [(s.name, s.unit) for s in env.spec.observation][:2] == [("position", "m"), ("angle", "rad")]
        assert [(s.name, s.unit, s.scale) for s in env.spec.action] == [("force", "N", 2.0)]
        assert [metric.name for metric in env.metrics] == ["return", "angle_rms_rad"]
        assert env.trace == ("angle_rad",)
        assert env.failed(True, False, {})
        assert abs(env.reset(0, env.excite(np.random.default_rng(0)))[1]) > 0.01
        falls = rollout(lambda o: np.ones((len(o), 1), np.float32), env, [1, 2])
        assert all(episode.failed and episode.metrics["angle_rms_rad"] > 0 for episode in falls)


def test_without_a_word_nothing_is_a_failure_and_the_user_may_say_so():
    with open_environment("CartPole-v1") as env:
        assert env.metrics == DEFAULT_METRICS
        assert not env.failed(True, False, {})
    with open_environment("CartPole-v1", terminated="failure") as env:
        assert env.failed(True, False, {})
        assert not env.failed(False, True, {})
    with open_environment("Acrobot-v1", terminated="success") as env:
        assert not env.failed(True, False, {})
    with pytest.raises(UsageError, match="perhaps"):
        open_environment("CartPole-v1", terminated="perhaps")


def test_options_reach_constructor_and_reset(robot, registered):
    with open_environment(f"{robot}:{robot}/Cart-v0", {"reset": {"angle_rad": 0.125}}) as env:
        assert env.reset(0)[1] == 0.125
        assert env.reset(0, {"angle_rad": 0.25})[1] == 0.25
    with open_environment("Pendulum-v1", {"g": 1.5}) as env:
        assert env.env.unwrapped.g == 1.5
    with open_environment("balance/Balance-v0", {"physics": {"friction": 0.5}}) as env:
        assert env.env.unwrapped.config.options.physics.friction == 0.5


def test_several_episodes_side_by_side_are_those_one_by_one():
    def act(observations):
        return np.tanh(observations[:, :1] * 3)

    with open_environment("InvertedPendulum-v5") as env:
        together = rollout(act, env, [1, 2, 3], max_steps=50)
        assert together == [rollout(act, env, [seed], max_steps=50)[0] for seed in (1, 2, 3)]


# --- substeps ---------------------------------------------------------------------------------------------------------


def everything(env, step, seed=1, steps=40):
    """All that some steps with changing actions give, to the bit."""
    env.reset(seed)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(steps):
        result = step(rng.uniform(-1, 1, env.spec.n_act).astype(np.float32))
        data = env.env.unwrapped.data
        seen.append((result.observation.tobytes(), result.reward, data.qpos.tobytes(), data.qvel.tobytes(), data.time))
        seen.append(sorted((k, float(v)) for k, v in result.info.items() if np.isscalar(v)))
        if result.terminated:
            break
    return seen


@pytest.mark.parametrize("environment", MUJOCO)
def test_substeps_change_no_bit(environment):
    with open_environment(environment) as env:
        assert env.substeps == env.env.unwrapped.frame_skip
        calls = []
        assert everything(env, env.step) == everything(env, lambda o: env.step(o, lambda: calls.append(1)))
        assert len(calls) >= env.substeps


@pytest.mark.parametrize("name", ["Cart", "OwnLoop"])
def test_a_robot_of_somebody_elses_is_stepped_in_substeps(robot, name):
    with open_environment(f"{robot}:{robot}/{name}-v0") as env:
        assert (env.substeps, env.substep_s) == (10, 0.002)
        assert everything(env, env.step) == everything(env, lambda o: env.step(o, lambda: None))


@pytest.mark.parametrize("environment", ["InvertedPendulum-v5", "Cart", "OwnLoop", "balance/Balance-v0"])
def test_an_action_takes_effect_in_the_substep_that_it_arrives_in(robot, environment):
    if environment in ("Cart", "OwnLoop"):
        environment = f"{robot}:{robot}/{environment}-v0"
    with open_environment(environment) as env:
        env.reset(1)
        controls = []

        def arrive(at):
            data, count = env.env.unwrapped.data, iter(range(env.substeps))

            def before():
                controls.append(data.ctrl.tolist())
                return np.ones(env.spec.n_act, np.float32) if next(count) == at else None

            return before

        env.step(None, arrive(env.substeps - 1))
        assert all(control == controls[0] for control in controls)  # until then the old one
        early, late = [], []
        for at, ends in ((0, early), (env.substeps - 1, late)):
            env.reset(1)
            env.step(None, arrive(at))
            ends.extend(env.env.unwrapped.data.qvel.tolist())
        assert early != late
        env.reset(1)
        plain = env.step(np.ones(env.spec.n_act, np.float32))
        env.reset(1)
        np.testing.assert_array_equal(plain.observation, env.step(None, arrive(0)).observation)


@pytest.mark.parametrize("name", ["Cart", "OwnLoop"])
def test_an_error_in_a_substep_leaves_nothing_behind(robot, name):
    with open_environment(f"{robot}:{robot}/{name}-v0") as env:
        before = everything(env, env.step)
        env.reset(1)

        def pull_the_plug():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            env.step(None, pull_the_plug)
        assert mujoco.get_mjcb_control() is None
        assert everything(env, env.step) == before


def test_an_environment_that_scales_its_actions_is_not_taken_apart(robot):
    with open_environment(f"{robot}:{robot}/Cart-v0", {"gain": 0.5}) as env:
        assert env.substeps == 1
        env.reset(1)
        calls = []
        env.step(None, lambda: calls.append(1))
        assert calls == [1]


def test_an_environment_with_a_physics_of_its_own_is_not_taken_apart(robot, registered):
    import importlib

    class WindyEnv(importlib.import_module(robot).CartEnv):
        def do_simulation(self, ctrl, n_frames):
            self.data.xfrc_applied[1, 0] = 0.1
            super().do_simulation(ctrl, n_frames)

    with open_environment(registered("toy/Windy-v0", WindyEnv)) as env:
        assert env.substeps == 1
        still = env.reset(0)
        assert env.step(np.zeros(1, np.float32)).observation[2] > still[2]  # the wind is there


# --- names and aliases ------------------------------------------------------------------------------------------------


def test_ids_of_version_1_are_aliases():
    for old, new in ALIASES.items():
        if new != "balance/MotorStand-v0":
            with open_environment(old) as env:
                assert env.spec.environment == new
    assert not set(ALIASES) & set(gym.registry)


def test_an_alias_never_shadows_a_users_environment(registered):
    registered("Env01-v1", toy(observation_space=gym.spaces.Box(-9, 9, (6,), np.float32)))
    assert resolve("Env01-v1") == "Env01-v1"
    with open_environment("Env01-v1") as env:
        assert (env.spec.environment, env.spec.observation[0].max) == ("Env01-v1", 9.0)


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    write_robot(tmp_path, "herebots")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    with open_environment("herebots:herebots/Cart-v0") as env:
        assert env.spec.environment == "herebots:herebots/Cart-v0"
    del sys.modules["herebots"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CartPole-v9", "did you mean 'CartPole-v1'"),
        ("Balance-v0", "did you mean 'balance/Balance-v0'"),
        ("HalfCheeta-v5", "did you mean 'HalfCheetah-v5'"),
        ("Xylophone-v0", "unknown environment 'Xylophone-v0'"),
        ("a:b:C-v0", "not a Gymnasium id"),
        (":C-v0", "not a Gymnasium id"),
        ("nowhere_at_all:C-v0", "No module named 'nowhere_at_all'"),
        ("", "''"),
    ],
)
def test_an_unknown_environment_is_named(name, says):
    with pytest.raises(UnknownEnvironmentError, match=says) as caught:
        open_environment(name)
    assert caught.value.hint


def test_a_module_that_breaks_is_said_to_break(tmp_path, monkeypatch):
    (tmp_path / "brokenbots.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownEnvironmentError, match="ZeroDivisionError"):
        open_environment("brokenbots:C-v0")


# --- refusals ---------------------------------------------------------------------------------------------------------

BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("attributes", "says", "hint"),
    [
        ({"observation_space": gym.spaces.Dict({"camera": BOX, "imu": BOX})}, r"Dict \(camera, imu\)", "FlattenObservation"),
        ({"observation_space": gym.spaces.Discrete(3)}, "Discrete", "FlattenObservation"),
        ({"observation_space": gym.spaces.MultiBinary(3)}, "MultiBinary", "FlattenObservation"),
        ({"action_space": gym.spaces.Box(-np.inf, np.inf, (1,))}, "unbounded", "finite limits"),
        ({"action_space": gym.spaces.MultiDiscrete([2, 2])}, "MultiDiscrete", "wrapper"),
        ({"action_space": gym.spaces.Discrete(3, start=3)}, "start at 3", "0"),
        ({"control_period_s": None}, "does not define its control period", "--period-ms"),
        ({"control_period_s": -1.0}, "control_period_s .* -1.0", "--period-ms"),
        ({"control_period_s": "fast"}, "'fast'", "--period-ms"),
        ({"policy_spec": {"observation": [{"name": "a"}]}}, "names 1 of 2 elements of its observation", "unit"),
        ({"policy_spec": {"action": [{"name": "a"}, {"nam": "b"}]}}, "action 1", "unit"),
        ({"policy_spec": {"action": [{"name": "a"}, {"name": "a"}]}}, "one name", "unit"),
        ({"policy_spec": 3}, "policy_spec .* int", "table"),
        ({"policy_metrics": [{"name": "a"}]}, "policy_metrics", "source"),
    ],
)
def test_an_environment_that_cannot_be_a_plant_is_refused_by_name(registered, attributes, says, hint):
    name = registered("toy/Refused-v0", toy(**attributes))
    with pytest.raises(UnsupportedEnvironmentError, match=says) as caught:
        open_environment(name)
    assert hint in caught.value.hint


def test_a_period_that_is_given_is_taken(registered):
    name = registered("toy/Period-v0", toy(control_period_s=None, metadata={"render_fps": 30}))
    with open_environment(name, period_s=0.01) as env:
        assert env.spec.control_period_s == 0.01


def test_options_that_the_constructor_does_not_know_are_refused():
    with pytest.raises(ConfigError, match="gravity"):
        open_environment("Pendulum-v1", {"gravity": 3})
    with pytest.raises(ConfigError, match=r"did you mean 'physics\.friction'"):
        open_environment("balance/Balance-v0", {"physics": {"fricton": 0.5}})
    with pytest.raises(ConfigError, match="'reset'"):
        open_environment("Pendulum-v1", {"reset": 3})


def test_an_error_of_the_environment_itself_is_no_traceback(registered):
    def explode(**_):
        raise RuntimeError("no such robot on the shelf")

    with pytest.raises(UnsupportedEnvironmentError, match="RuntimeError: no such robot on the shelf") as caught:
        open_environment(registered("toy/Explodes-v0", explode))
    assert "gymnasium.make('toy/Explodes-v0')" in caught.value.hint


def test_a_package_that_is_missing_is_named():
    if gym.envs.registration.importlib.util.find_spec("Box2D"):
        pytest.skip("Box2D is installed")
    with pytest.raises(HarnessError, match="Box2D"):
        open_environment("BipedalWalker-v3")


def test_numbers_that_are_none_are_refused(registered):
    nan = gym.spaces.Box(-1, 1, (1,), np.float32)
    nan.sample = lambda: np.array([np.nan], np.float32)
    with (
        open_environment(registered("toy/Nan-v0", toy(observation_space=nan))) as env,
        pytest.raises(SimulationDivergedError, match="not finite, at index 0"),
    ):
        env.reset(0)
    with open_environment("Pendulum-v1") as env, pytest.raises(NonFiniteInputError):
        env.step(np.array([np.inf], np.float32))


def test_a_policy_runs_where_its_signals_are_and_nowhere_else(registered):
    with open_environment("balance/Balance-v0") as env:
        made_for = env.spec
    open_for(made_for, "balance/BalanceNoisy-v0").close()
    with pytest.raises(EnvironmentMismatchError, match="cannot run on Pendulum-v1: they differ in 6 and 3 elements"):
        open_for(made_for, "Pendulum-v1")
    with open_environment(registered("toy/Changed-v0", toy())) as env:
        before = env.spec
    gym.registry["toy/Changed-v0"].entry_point.action_space = gym.spaces.Box(-2, 2, (2,), np.float32)
    with pytest.raises(EnvironmentMismatchError, match=r"another version of toy/Changed-v0: .*act_0"):
        open_for(before)


def test_an_environment_without_an_episode_length_needs_one(registered):
    with open_environment(registered("toy/Endless-v0", toy())) as env:
        with pytest.raises(UsageError, match="no episode length"):
            require_control_steps(env, None)
        assert require_control_steps(env, 7) == 7
