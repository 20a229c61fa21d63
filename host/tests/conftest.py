"""Fixtures that several areas share."""

import functools
import gc
import os
import signal
import threading
from pathlib import Path

import filelock
import gymnasium as gym
import numpy as np
import pytest

from balance_hil import firmware_build
from balance_hil.bundle import Bundle
from balance_hil.checkpoint import import_sb3
from balance_hil.envs.balance import config_for
from balance_hil.errors import MissingExtraError
from balance_hil.quantize import QuantParams

from .installed import require_installed


@pytest.fixture
def linear_bundle():
    """A bundle without files, for boards that run ``linear_policy``: scales are powers of two, so INFO carries them exactly."""
    return Bundle(
        path=Path("models/linear"),
        id="0123456789ab",
        algorithm="linear",
        spec=config_for("balance/Balance-v0").policy_spec("balance/Balance-v0"),
        input_quant=QuantParams(1 / 128, 0),
        output_quant=QuantParams(1 / 128, 0),
    )


@pytest.fixture(scope="session", autouse=True)
def same_commit():
    """The firmware's sources stay as they are: git is asked once, instead of at each start of a board."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firmware_build, "_git", functools.cache(firmware_build._git))
        yield


os.environ["HIL_HISTORY"] = "off"  # the tests of it name a file


# Of the groups of tests that one process runs, those that take longest, the longest first: a short one ends the session.
LONGEST_FIRST = (
    "test_any_robot",
    "test_any_policy",
    "test_normalization",
    "test_pipeline",
    "test_any_bundle",
    "test_parsers",
    "test_docs",
    "test_any_environment",
    "test_train",
    "test_campaigns",
    "test_fuzz",
    "test_sources",
    "test_run",
    "test_wheel",
    "test_front_door",
    "test_plugin",
    "test_verify",
)
BETWEEN_BOARDS = 2  # of them: the HIL suite waits for its board half of the time, so two boards at once leave a core idle


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The order in which processes take groups: a board, BETWEEN_BOARDS of LONGEST_FIRST, the next board; then the others."""
    boards, last = {}, len(items)

    def turn(item):
        if item.path.parent.name == "hil_tests":
            board = item.callspec.params.get("hil_board_name") if hasattr(item, "callspec") else None
            return boards.setdefault(board, len(boards)) * (BETWEEN_BOARDS + 1)
        if item.path.stem not in LONGEST_FIRST:
            return last
        boards_before, rest = divmod(LONGEST_FIRST.index(item.path.stem), BETWEEN_BOARDS)
        return boards_before * (BETWEEN_BOARDS + 1) + 1 + rest

    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_make_scheduler():
    """A module's tests share a process; the heaviest modules are divided into what shares no fixture."""
    scheduler = yield
    of_boards = getattr(scheduler, "_split_scope", None)
    if of_boards is None:  # without --dist loadscope
        return scheduler

    def split(nodeid):
        module = nodeid.partition("::")[0]
        if module.startswith("hil_tests"):
            return of_boards(nodeid)
        if module.endswith("test_any_policy.py"):
            return module + next((board for board in ("[native]", "[qemu-") if board in nodeid), "")
        return module

    scheduler._split_scope = split
    return scheduler


def pytest_configure():
    """One thread for each of several processes: those of OpenMP would wait for each other. Ctrl-C ends the tests, and their
    children, also where a shell started them in the background with SIGINT ignored.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """The thousands of tests and modules stay: the garbage collector need visit them neither now, for a second, nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="session")
def ppo_bundle():
    """The bundle that is shipped as models/ppo. One that is there but damaged fails; it is not skipped."""
    folder = MODELS / "ppo"
    if not (folder / "bundle.json").is_file():
        pytest.skip(f"{folder} holds no bundle: restore it with git, or make it with hil train ppo and hil export models/ppo")
    return Bundle.load(folder)


class _StillEnv(gym.Env):
    """Spaces of a balance environment and nothing behind them: enough to make an untrained policy."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(6, np.float32), {}

    def step(self, action):
        return np.zeros(6, np.float32), 0.0, False, False, {}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Makes an untrained Stable-Baselines3 model with two layers of 8: ``untrained("SAC", **options)``, saved or not."""
    try:
        sb3 = import_sb3()
    except MissingExtraError as exc:
        pytest.skip(f"{exc.message}: {exc.hint}")

    def make(algorithm, *, path=None, **options):
        options.setdefault("policy_kwargs", {})
        options["policy_kwargs"] = {"net_arch": [8, 8], **options["policy_kwargs"]}
        if algorithm in ("SAC", "TD3", "DDPG"):
            options.setdefault("buffer_size", 10)
        model = getattr(sb3, algorithm)("MlpPolicy", options.pop("env", None) or _StillEnv(), seed=0, device="cpu", **options)
        if path is not None:
            model.save(path)
        return model

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, untrained):
    """An exported, untrained SAC policy of two layers of 8 with per-tensor weights: tanh output, falls at once."""
    require_installed("tensorflow")
    from balance_hil.exporting import ExportConfig, export

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers: one of them exports it
    folder = root / "models" / "tiny"
    with filelock.FileLock(root / "tiny.lock"):
        if not (folder / "bundle.json").is_file():
            folder.mkdir(parents=True)
            untrained("SAC", path=folder / "policy.zip")
            export(ExportConfig(source=folder, episodes=1, max_steps=20, seed=3, per_tensor=True))
    return Bundle.load(folder)
