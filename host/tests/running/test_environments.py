"""Any environment as the plant: Gymnasium's own and a robot package of somebody else's, on the native board and on a fake one."""

import importlib
import signal
import sys
from dataclasses import replace

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from balance_hil.boards import Board, connect
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.native import NativeMachine
from balance_hil.environment import open_environment
from balance_hil.errors import (
    CableUnpluggedError,
    ConfigError,
    SilentBoardError,
    UnknownEnvironmentError,
    UnsupportedEnvironmentError,
    UsageError,
)
from balance_hil.model_image import ModelImage
from balance_hil.recording import Step, read_recording
from balance_hil.running import RunConfig, open_plant, run
from balance_hil.running.episode import RunLog
from balance_hil.runtimes import load_runtime
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info
from balance_hil.testing.synthetic_bundle import bundle_of_model, synthetic_bundle
from balance_hil.testing.synthetic_models import linear

from ..robots import write_robot

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
BALANCING = [[0.3, 4.0, 0.5, 1.0]]  # of a cart under a pole: outputs = gains @ (position, angle, velocity, angle rate)
CART, OWN_LOOP = "runbots:runbots/Cart-v0", "runbots:runbots/OwnLoop-v0"
# Environment: physics substeps of a control step, and a model where random weights would end it at once.
ENVIRONMENTS = {
    "CartPole-v1": (1, linear([[-0.1, -3.0, -0.3, -0.8], [0.1, 3.0, 0.3, 0.8]], 0.5, 4.0)),
    "Pendulum-v1": (1, None),
    "InvertedPendulum-v5": (2, linear(BALANCING, 1.0)),
    "HalfCheetah-v5": (5, None),
    CART: (10, linear(BALANCING, 1.0)),
    OWN_LOOP: (10, linear(BALANCING, 1.0)),
}


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """The robot package, importable."""
    folder = tmp_path_factory.mktemp("packages")
    write_robot(folder, "runbots")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("runbots", None)


@pytest.fixture(scope="module")
def bundle_for(robot, tmp_path_factory):
    """Makes the bundle of a policy for an environment, once."""
    made = {}

    def make(environment):
        if environment not in made:
            with open_environment(environment) as env:
                spec = env.spec
            folder = tmp_path_factory.mktemp("bundles") / "policy"
            _, model = ENVIRONMENTS[environment]
            if model is None:
                made[environment] = synthetic_bundle(folder, spec.n_obs, spec.n_act, spec=spec, seed=3)
            else:
                made[environment] = bundle_of_model(folder, model, spec)
        return made[environment]

    return make


def act(env, outputs):
    """The action that an environment takes for the outputs of a policy, by its spaces alone."""
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        return int(np.argmax(outputs))
    half = (space.high.astype(np.float64) - space.low) / 2
    return np.clip(space.low + half + half * np.clip(outputs, -1, 1), space.low, space.high).astype(space.dtype)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_lockstep_is_the_episode_of_the_plain_environment(bundle_for, environment, tmp_path):
    bundle = bundle_for(environment)
    config = RunConfig(seeds=[5, 6], clock="lockstep", max_steps=60, recording=tmp_path / "run.mcap")
    with connect("native", bundle) as board:
        result = run(board, bundle, config)
    assert result.verdict.good, result.verdict.line
    assert (result.tflm_check.differing, result.lost) == (0, 0)
    assert result.metrics[0].name == "return"
    back = read_recording(tmp_path / "run.mcap")
    env = gym.make(environment, disable_env_checker=True).unwrapped
    with load_runtime("tflm", bundle) as tflm:
        for index, episode in enumerate(result.episodes):
            observation, _ = env.reset(seed=episode.seed)
            rows = np.flatnonzero(back.episode == index)
            assert len(rows) == episode.steps
            for row in rows:
                assert np.array_equal(back.observation[row], np.ravel(observation).astype(np.float32)), row
                assert np.array_equal(back.action[row], tflm.act(back.observation[row]))
                observation, reward, *_ = env.step(act(env, back.action[row]))
                assert back.reward[row] == pytest.approx(reward, rel=1e-8, abs=1e-12)
            assert episode.metrics["return"] == pytest.approx(back.reward[rows].sum())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_real_time(bundle_for, environment, tmp_path):
    bundle = bundle_for(environment)
    period_s = bundle.spec.control_period_s
    steps = max(10, round(0.5 / period_s))
    config = RunConfig(seeds=[5], max_steps=steps, max_lost=10_000, recording=tmp_path / "run.mcap")
    with connect("native", bundle) as board:
        result = run(board, bundle, config)
    assert result.tflm_check.checked >= 1
    assert result.tflm_check.differing == 0
    assert result.steps == len(read_recording(tmp_path / "run.mcap"))
    assert result.wall_s >= 0.95 * result.steps * period_s, "the plant never runs faster than the wall clock"
    with open_plant(bundle, config) as env:
        assert env.substeps == ENVIRONMENTS[environment][0]


def test_what_the_robot_says_of_itself_is_in_result_and_recording(bundle_for, tmp_path):
    bundle = bundle_for(CART)
    options = {"gain": 0.0, "reset": {"angle_rad": 0.2}}
    config = RunConfig(
        seeds=[5], clock="lockstep", recording=tmp_path / "run.mcap", options=options, environment="runbots:runbots/Cart-v0"
    )
    with connect("native", bundle) as board:
        result = run(board, bundle, config)
    (episode,) = result.episodes
    assert episode.failed, "without its motor the pole falls"
    assert episode.steps < 200
    assert episode.metrics["angle_rms_rad"] > 0.2
    assert "seed 5" in result.verdict.line
    back = read_recording(tmp_path / "run.mcap")
    assert list(back.plant) == ["angle_rad"]
    assert back.observation[0, 1] == np.float32(0.2)
    assert back.meta["options"] == options
    assert [signal.unit for signal in back.spec.observation] == ["m", "rad", "m/s", "rad/s"]


def test_what_termination_means_is_the_bundles_and_may_be_said_anew(bundle_for):
    bundle = bundle_for("CartPole-v1")
    away = replace(bundle, spec=replace(bundle.spec, terminated="failure"))
    firmware = FakeFirmware(fake_info(bundle), lambda values: np.array([1, 0], np.int8))
    with fake_board(firmware, bundle) as board:
        config = RunConfig(seeds=[1], clock="lockstep", check_tflm=False)
        assert not run(board, bundle, config).episodes[0].failed
        assert run(board, bundle, replace(config, terminated="failure")).episodes[0].failed
        assert run(board, away, config).episodes[0].failed


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"environment": "Nowhere-v3"}, UnknownEnvironmentError),
        ({"options": {"gravitas": 3}}, ConfigError),
        ({"environment": "runbots:runbots/Endless-v0"}, UsageError),
    ],
)
def test_an_environment_is_refused_before_there_is_a_board(bundle_for, options, error):
    bundle = bundle_for(CART)
    if "runbots/Endless-v0" not in gym.registry:
        gym.register("runbots/Endless-v0", gym.registry["runbots/Cart-v0"].entry_point)
    endless = replace(bundle, spec=replace(bundle.spec, episode_steps=0))
    with pytest.raises(error):
        open_plant(endless, RunConfig(seeds=[1], **options))


@pytest.mark.parametrize(
    ("robot_says", "message"),
    [
        ({"policy_trace": ("angle_rad", "torque")}, "promises numbers .* KeyError\\('torque'\\)"),
        ({"policy_metrics": ({"name": "peak", "unit": "", "source": "torque"},)}, "the metric 'peak' reads 'torque'"),
    ],
)
def test_what_the_info_of_a_step_lacks_is_named(bundle_for, monkeypatch, robot_says, message):
    bundle = bundle_for(CART)
    robot = gym.make(CART, disable_env_checker=True).unwrapped
    for name, value in robot_says.items():
        monkeypatch.setattr(type(robot), name, value, raising=False)
    with connect("native", bundle) as board, pytest.raises(UnsupportedEnvironmentError, match=message):
        run(board, bundle, RunConfig(seeds=[1], clock="lockstep", max_steps=5))


@pytest.mark.parametrize("clock_kind", ["lockstep", pytest.param("realtime", marks=pytest.mark.slow)])
def test_a_board_whose_processor_stops_is_named(bundle_for, tmp_path, clock_kind):
    bundle = bundle_for(CART)
    machine = NativeMachine(EmulationConfig(image=ModelImage.of(bundle)))
    config = RunConfig(seeds=[1], clock=clock_kind, reply_timeout_s=0.2, recording=tmp_path / "run.mcap", max_lost=10_000)

    def stop(tick):
        if tick.step == 20:
            machine.pause()

    with Board(machine.start(), bundle, machine=machine) as board:
        with pytest.raises(SilentBoardError, match=r"stopped answering at step 2[123]: nothing came for 0\.(59|6) s"):
            run(board, bundle, config, stop)
        machine.resume()
    assert read_recording(tmp_path / "run.mcap").meta["ended"].startswith("the board on ")


@pytest.mark.parametrize(("environment", "pictures"), [("balance/Balance-v0", 9), ("Pendulum-v1", 60)])
def test_a_watched_run_is_drawn_30_times_a_second_at_most(monkeypatch, environment, pictures):
    drawn = []
    with open_environment(environment) as env:
        monkeypatch.setattr(type(env), "is_watched", True)
        monkeypatch.setattr(env, "render", lambda: drawn.append(True))
        log = RunLog([], None, timed=True)
        for number in range(60):
            log.step(env, Step(0.0, 0, number, [], [], False, [], 0.0), None, 0)
    assert len(drawn) == pictures


# --- in the middle of a step ------------------------------------------------------------------------------------------


@pytest.fixture
def board_of(bundle_for):
    """A fake board that runs the policy for an environment with a linear model."""

    def make(environment, **faults):
        bundle = bundle_for(environment)
        with load_runtime("tflm", bundle) as tflm:
            firmware = FakeFirmware(fake_info(bundle), tflm.infer_raw, **faults)
        return fake_board(firmware, bundle), bundle

    return make


@pytest.mark.parametrize("environment", [CART, OWN_LOOP])
@pytest.mark.parametrize("latency_ms", [0.5, 7.0, 19.5])
def test_a_reply_takes_effect_in_the_substep_after_it_came(clock, board_of, environment, latency_ms, tmp_path):
    """Told by stepping the robot's own physics by hand."""
    board, bundle = board_of(environment, delay_s=lambda number: latency_ms / 1e3)
    with board:
        result = run(board, bundle, RunConfig(seeds=[3], max_steps=30, check_tflm=False, recording=tmp_path / "run.mcap"))
    assert (result.late, result.held_steps) == (0, 0)
    back = read_recording(tmp_path / "run.mcap")
    before = int(latency_ms // 2)  # substeps of 2 ms that pass before the reply is there
    robot = gym.make(environment, disable_env_checker=True).unwrapped
    robot.reset(seed=3)
    for step in range(29):
        for substep in range(10):
            if substep == before:
                robot.data.ctrl[:] = act(robot, back.action[step])
            mujoco.mj_step(robot.model, robot.data)
        assert np.array_equal(back.observation[step + 1], robot._observe().astype(np.float32)), f"step {step}"


@pytest.mark.parametrize("environment", ["InvertedPendulum-v5", CART, OWN_LOOP])
@pytest.mark.parametrize("end", [CableUnpluggedError, KeyboardInterrupt])
def test_an_end_in_the_middle_of_a_step_leaves_nothing_behind(board_of, environment, end, tmp_path):
    faults = {"unplug_at": 12} if end is CableUnpluggedError else {}
    board, bundle = board_of(environment, delay_s=lambda number: 0.002, **faults)
    config = RunConfig(seeds=[3], max_steps=40, max_lost=1000, check_tflm=False, recording=tmp_path / "run.mcap")

    def press(tick):
        if tick.step == 10 and end is KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # the second one does not wait for the end of the step

    with open_plant(bundle, config) as env:
        with board, pytest.raises(end):
            run(board, bundle, config, press, environment=env)
        assert mujoco.get_mjcb_control() is None
        assert "do_simulation" not in vars(env.env.unwrapped)
        assert read_recording(tmp_path / "run.mcap").meta["ended"] != "complete"
        again, plain = [], []
        observation = env.reset(3)
        for _ in range(20):
            again.append(observation)
            observation = env.step(np.full(1, 0.1, np.float32)).observation
        with open_plant(bundle, config) as fresh:
            observation = fresh.reset(3)
            for _ in range(20):
                plain.append(observation)
                observation = fresh.step(np.full(1, 0.1, np.float32)).observation
        assert np.array_equal(again, plain)
