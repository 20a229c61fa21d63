import json
import shutil
from contextlib import contextmanager

import imageio
import numpy as np
import pytest

from balance_hil import evaluating
from balance_hil.cli import hil
from balance_hil.environment import open_environment
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.errors import (
    BundleError,
    CableUnpluggedError,
    CheckpointError,
    ConfigError,
    DisplayMissingError,
    EnvironmentMismatchError,
    UnknownEnvironmentError,
    UsageError,
)
from balance_hil.evaluating import OpenPolicy, evaluate, film, open_policy
from balance_hil.rollout import EVALUATION_SEED_BASE
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import Runtime

SEEDS = range(EVALUATION_SEED_BASE, EVALUATION_SEED_BASE + 3)


class Upset(Runtime):
    """A policy that fails after some steps."""

    name, n_obs, n_act = "upset", 6, 2

    def __init__(self, steps, error):
        self.steps, self.error = steps, error

    def act_batch(self, observations):
        self.steps -= 1
        if self.steps < 0:
            raise self.error
        return np.zeros((len(observations), 2), np.float32)


@pytest.fixture
def command(capsys):
    """Runs ``hil evaluate`` and returns exit status, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            hil(["evaluate", *map(str, arguments)], standalone_mode=False)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def float_only(tmp_path, ppo_bundle):
    """A folder with a trained policy that was never exported."""
    folder = tmp_path / "trained"
    folder.mkdir()
    for name in ("policy.zip", "training.json"):
        shutil.copy(ppo_bundle.file(name), folder)
    return folder


@pytest.fixture
def two_environments(monkeypatch):
    monkeypatch.setitem(envs.CATALOG, "balance/BalanceRandomized-v0", BalanceConfig())


@pytest.fixture
def headless(ppo_bundle):
    """Skips where no picture can be rendered."""
    env = envs.make("balance/Balance-v0", render_mode="rgb_array", width=64, height=64)
    try:
        env.reset(seed=0)
        env.render()
    except DisplayMissingError as exc:
        pytest.skip(f"{exc.message}: {exc.hint}")
    finally:
        env.close()


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["torch", "float32", "tflm"])
def test_a_bundle_opens_on_a_runtime(ppo_bundle, runtime):
    with open_policy(ppo_bundle.path, runtime, environment="balance/Balance-v0") as policy:
        assert (policy.runtime.name, policy.environment.spec.environment, policy.bundle_id) == (
            runtime,
            "balance/Balance-v0",
            ppo_bundle.id,
        )


def test_a_folder_that_was_not_exported_opens_on_torch_alone(float_only):
    for path in (float_only, float_only / "policy.zip"):
        with open_policy(path, "torch") as policy:
            assert (policy.environment.spec.environment, policy.bundle_id) == ("balance/Balance-v0", "")
            assert evaluate(policy, SEEDS, max_steps=20)[0].steps == 20
    with pytest.raises(BundleError, match="nothing was exported") as caught, open_policy(float_only, "tflm"):
        pass
    assert "hil export" in caught.value.hint


def test_a_policy_runs_on_another_environment_with_the_same_signals(ppo_bundle, float_only, two_environments):
    for path, runtime in ((ppo_bundle.path, "tflm"), (ppo_bundle.path, "torch"), (float_only, "torch")):
        with open_policy(path, runtime, environment="balance/BalanceRandomized-v0") as policy:
            assert policy.environment.spec.environment == "balance/BalanceRandomized-v0"
            assert evaluate(policy, SEEDS, max_steps=5)[0].failed is False


def test_a_policy_is_refused_by_an_environment_with_other_signals(ppo_bundle, float_only, monkeypatch):
    monkeypatch.setitem(envs.CATALOG, "balance/BalanceRandomized-v0", BalanceConfig(pitch_scale_rad=0.7))
    for path, runtime in ((ppo_bundle.path, "tflm"), (ppo_bundle.path, "torch"), (float_only, "torch")):
        with (
            pytest.raises(
                EnvironmentMismatchError,
                match=r"made for balance/Balance-v0 cannot run on balance/BalanceRandomized-v0: .*observation 0, pitch",
            ),
            open_policy(path, runtime, environment="balance/BalanceRandomized-v0"),
        ):
            pass


def test_options_from_a_file_make_another_robot(ppo_bundle, command, tmp_path):
    file = tmp_path / "slippery.yaml"
    file.write_text("physics: {friction: 0.0}\n")
    status, out, _ = command(ppo_bundle.path, "--options", file, "--episodes", 2, "--steps", 2000, "--json")
    assert status == 1  # without friction nobody stays up
    assert json.loads(out)["options"] == {"physics": {"friction": 0.0}}
    file.write_text("physics: {fricton: 0.5}\n")
    with pytest.raises(ConfigError, match=r"unknown option 'physics.fricton' in .*, did you mean 'physics.friction'"):
        hil(["evaluate", str(ppo_bundle.path), "--options", str(file)], standalone_mode=False)


def test_a_checkpoint_of_another_size_is_refused(tmp_path, untrained):
    import gymnasium as gym

    class SmallEnv(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    untrained("PPO", path=tmp_path / "policy.zip", env=SmallEnv())
    with pytest.raises(EnvironmentMismatchError, match=r"observations, shape \(4,\) and \(6,\)"), open_policy(tmp_path, "torch"):
        pass


def test_unknown_names_are_answered(ppo_bundle, tmp_path):
    with pytest.raises(UnknownEnvironmentError, match="did you mean"), open_policy(ppo_bundle.path, "tflm", environment="Env01"):
        pass
    with pytest.raises(CheckpointError, match="no such checkpoint"), open_policy(tmp_path / "none.zip", "torch"):
        pass
    with pytest.raises(BundleError, match="no such bundle"), open_policy(tmp_path / "none", "tflm"):
        pass


def test_a_board_is_connected_for_as_long_as_it_is_used(ppo_bundle, monkeypatch):
    events = []

    class StandIn:
        def as_runtime(self):
            return load_runtime("tflm", ppo_bundle)

    @contextmanager
    def connect(bundle):
        events.append(bundle.id)
        yield StandIn()
        events.append("closed")

    with open_policy(ppo_bundle.path, "board", connect=connect) as policy:
        assert evaluate(policy, SEEDS, max_steps=5)[0].failed is False
        assert events == [ppo_bundle.id]
    assert events[-1] == "closed"


# --- running ----------------------------------------------------------------------------------------------------------


def test_side_by_side_and_one_by_one_are_the_same_episodes(ppo_bundle, headless, tmp_path):
    with open_policy(ppo_bundle.path, "tflm", render_mode="rgb_array") as policy:
        together = evaluate(policy, SEEDS, max_steps=20)
        filmed = film(policy, SEEDS, tmp_path / "run.mp4", max_steps=20)
    assert filmed == together


def test_a_film_has_25_frames_a_second(ppo_bundle, headless, tmp_path):
    with open_policy(ppo_bundle.path, "tflm", render_mode="rgb_array") as policy:
        film(policy, SEEDS[:1], tmp_path / "run.mp4", max_steps=17)
    frames = imageio.mimread(tmp_path / "run.mp4", memtest=False)
    assert len(frames) == 3  # steps 0, 8 and 16
    assert frames[0].std() > 5  # something is to be seen
    assert [p.name for p in tmp_path.iterdir()] == ["run.mp4"]


@pytest.mark.parametrize("error", [CableUnpluggedError("the cable was pulled", "plug it in"), KeyboardInterrupt()])
def test_a_film_that_breaks_off_leaves_no_file(headless, tmp_path, error):
    policy = OpenPolicy(Upset(10, error), open_environment("balance/Balance-v0", render_mode="rgb_array"), "")
    with pytest.raises(type(error)):
        film(policy, SEEDS[:1], tmp_path / "run.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "message"), [("run.gif", r"\.mp4"), ("none/run.mp4", "no such folder")])
def test_a_film_needs_a_place_and_a_known_ending(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        film(OpenPolicy(Upset(10, ValueError()), open_environment("balance/Balance-v0"), ""), SEEDS[:1], tmp_path / name)


def test_watching_needs_a_display(ppo_bundle, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DisplayMissingError) as caught, open_policy(ppo_bundle.path, "tflm", render_mode="human"):
        pass
    assert "--video" in caught.value.hint


# --- the command ------------------------------------------------------------------------------------------------------


def test_json_has_the_promised_keys(ppo_bundle, command):
    status, out, _ = command(ppo_bundle.path, "--episodes", 2, "--steps", 40, "--json")
    document = json.loads(out)
    assert status == 0
    assert next(iter(document)) == "schema"
    assert document["schema"] == "balance_hil/evaluate@2"
    assert document["bundle"] == {"name": ppo_bundle.path.name, "id": ppo_bundle.id, "path": str(ppo_bundle.path)}
    assert (document["runtime"], document["environment"], document["success_rate"]) == ("tflm", "balance/Balance-v0", 1.0)
    assert document["verdict"] == {"good": True, "reasons": []}
    assert document["metrics"].keys() == document["episodes"][0]["metrics"].keys() >= {"return", "action_rate"}
    assert [(episode["seed"], episode["failed"]) for episode in document["episodes"]] == [(10_000, False), (10_001, False)]


def test_the_seed_moves_the_episodes(ppo_bundle, command):
    _, out, _ = command(ppo_bundle.path, "--episodes", 1, "--steps", 5, "--seed", 7, "--json")
    assert json.loads(out)["episodes"][0]["seed"] == 10_007


def test_a_policy_that_falls_gives_exit_status_1(tiny_bundle, command):
    status, out, err = command(tiny_bundle.path, "--episodes", 2, "--steps", 2000)
    assert status == 1
    assert "FAIL: 2 of 2 episodes failed" in out
    assert "FAIL" not in err


@pytest.mark.parametrize("to_file", [False, True])
def test_show_io_shows_every_observation_and_action(ppo_bundle, command, tmp_path, to_file):
    where = [str(tmp_path / "io.csv")] if to_file else []
    _, out, _ = command(ppo_bundle.path, "--episodes", 2, "--steps", 3, "--runtime", "torch", "--show-io", *where)
    lines = (tmp_path / "io.csv").read_text().splitlines() if to_file else out.splitlines()
    names = [s.name for s in (*ppo_bundle.spec.observation, *ppo_bundle.spec.action)]
    assert lines[0].split(",") == ["episode", "step", *names]
    table = np.array([[float(cell) for cell in line.split(",")] for line in lines[1:7]])
    assert table[:, :2].tolist() == [[1, 0], [2, 0], [1, 1], [2, 1], [1, 2], [2, 2]]
    with open_policy(ppo_bundle.path, "torch") as policy:
        expected = policy.runtime.act_batch(table[:, 2:8].astype(np.float32))
    assert np.max(np.abs(expected - table[:, 8:])) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"), [(["--view", "--video", "x.mp4"], "exclude"), (["--json", "--show-io"], "both write to stdout")]
)
def test_options_that_do_not_go_together_are_refused(ppo_bundle, options, message):
    with pytest.raises(UsageError, match=message):
        hil(["evaluate", str(ppo_bundle.path), *options], standalone_mode=False)


def test_a_film_is_one_episode_unless_said_otherwise(ppo_bundle, headless, command, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluating, "film", lambda policy, seeds, **rest: asked.append((list(seeds), rest["path"])) or [])
    command(ppo_bundle.path, "--video", tmp_path / "run.mp4")
    assert asked == [([10_000], tmp_path / "run.mp4")]
