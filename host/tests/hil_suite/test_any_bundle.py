"""The HIL suite on bundles of any environment: it knows no robot, no sizes and no length."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balance_hil.boards.kinds import qemu
from balance_hil.bundle import Bundle
from balance_hil.environment import open_environment
from balance_hil.errors import HarnessError
from balance_hil.testing.synthetic_bundle import bundle_of_model, synthetic_bundle
from balance_hil.testing.synthetic_models import linear

from ..robots import write_robot

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
REPOSITORY = Path(__file__).parents[3]
WALKER = """
import gymnasium as gym
import numpy as np


class WalkEnv(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (24,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    control_period_s = 0.02

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-0.1, 0.1, 24)
        return self.state.astype(np.float32), {}

    def step(self, action):
        self.state = 0.95 * self.state + 0.05 * np.tile(action, 6)
        return self.state.astype(np.float32), -float(np.square(self.state).sum()), False, False, {}


gym.register("walkbots/Walk-v0", WalkEnv, max_episode_steps=70)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two environment packages."""
    folder = tmp_path_factory.mktemp("project")
    write_robot(folder, "suitebots")
    (folder / "walkbots.py").write_text(WALKER)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def walker(project: Path) -> Bundle:
    """24 inputs, 4 outputs."""
    with open_environment("walkbots:walkbots/Walk-v0") as env:
        return synthetic_bundle(project / "walker", 24, 4, spec=env.spec, hidden=32)


@pytest.fixture(scope="module")
def others(project: Path) -> list[Bundle]:
    """A robot of one's own, a Discrete action, and a robot of Gymnasium's."""
    bundles = []
    for name, environment, model in (
        ("cart", "suitebots:suitebots/Cart-v0", linear([[0.3, 4.0, 0.5, 1.0]], 1.0)),
        ("cartpole", "CartPole-v1", linear([[-0.1, -3.0, -0.3, -0.8], [0.1, 3.0, 0.3, 0.8]], 0.5, 4.0)),
    ):
        with open_environment(environment) as env:
            bundles.append(bundle_of_model(project / name, model, env.spec))
    with open_environment("HalfCheetah-v5") as env:
        bundles.append(synthetic_bundle(project / "cheetah", env.spec.n_obs, env.spec.n_act, spec=env.spec))
    return bundles


@pytest.fixture
def suite(project: Path, tmp_path: Path) -> Callable[..., dict[str, dict[str, str]]]:
    """Runs tests of the suite in a process of their own; all must pass. Returns the JUnit properties of each test."""

    def run(*arguments: str) -> dict[str, dict[str, str]]:
        path = os.pathsep.join([str(REPOSITORY / "host"), str(project)])
        options = ["-c", "pyproject.toml", "-p", "no:cacheprovider", f"--junitxml={tmp_path / 'out.xml'}"]
        command = [sys.executable, "-m", "pytest", "-q", *options, *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:]
        assert "skipped" not in done.stdout
        cases = ET.parse(tmp_path / "out.xml").iter("testcase")  # written a moment ago by pytest
        return {case.get("name", ""): {p.get("name", ""): p.get("value", "") for p in case.iter("property")} for case in cases}

    return run


@pytest.mark.slow
def test_a_policy_of_24_inputs_and_4_outputs_passes_everything(
    walker: Bundle, suite: Callable[..., dict[str, dict[str, str]]]
) -> None:
    found = suite("hil_tests", f"--hil-bundle={walker.path}", "--hil-episodes=2", "--hil-inputs=2000")
    assert len(found) > 80
    lockstep, realtime = found["test_lockstep_episodes[native]"], found["test_one_real_time_episode[native]"]
    assert lockstep["hil_inputs_checked"].startswith("140 "), "two episodes of the environment's own length"
    assert "hil_return" in lockstep
    assert "hil_round_trip_p50" in realtime


@pytest.mark.slow
def test_episodes_on_an_emulated_processor(
    walker: Bundle, others: list[Bundle], suite: Callable[..., dict[str, dict[str, str]]]
) -> None:
    try:
        qemu.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    bundles = f"--hil-bundle={walker.path},{others[0].path}"
    found = suite("hil_tests/test_episodes.py", "--hil-board=qemu-m4", bundles, "--hil-episodes=2", "-k", "lockstep_episodes")
    assert [properties["hil_board"] for properties in found.values()] == ["qemu-m4"] * 2
    assert found["test_lockstep_episodes[qemu-m4-walker]"]["hil_inputs_checked"].startswith("140 ")


@pytest.mark.slow
def test_episodes_of_any_environment(others: list[Bundle], suite: Callable[..., dict[str, dict[str, str]]]) -> None:
    bundles = ",".join(str(bundle.path) for bundle in others)
    found = suite("hil_tests/test_episodes.py", f"--hil-bundle={bundles}", "--hil-episodes=2", "--hil-seconds=2")
    assert len(found) == 9
    assert "hil_angle_rms_rad" in found["test_lockstep_episodes[native-cart]"]
    assert found["test_lockstep_episodes[native-cheetah]"]["hil_inputs_checked"].startswith("80 ")
