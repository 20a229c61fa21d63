"""Fixtures that several areas share."""

import gc
import signal
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from balance_hil.bundle import Bundle
from balance_hil.checkpoint import import_sb3
from balance_hil.envs.balance import config_for
from balance_hil.errors import MissingExtraError
from balance_hil.quantize import QuantParams


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


def pytest_configure():
    """Ctrl-C ends the tests, and their children, also where a shell started them in the background with SIGINT ignored."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """The thousands of tests and modules stay: the garbage collector need not visit them time and again."""
    gc.collect()
    gc.freeze()


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
    pytest.importorskip("tensorflow", reason="tensorflow is not installed: pip install 'balance-hil[export]'")
    from balance_hil.exporting import ExportConfig, export

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    untrained("SAC", path=folder / "policy.zip")
    return export(ExportConfig(source=folder, episodes=1, max_steps=20, seed=3, per_tensor=True)).bundle
