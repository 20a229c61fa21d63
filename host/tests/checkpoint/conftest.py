"""Checkpoints of Stable-Baselines3, real ones and altered ones."""

import base64
import io
import json
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch


class SpacesEnv(gym.Env):
    """Two spaces and nothing behind them."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.fixture(scope="session")
def spaces_env():
    return SpacesEnv


@pytest.fixture(scope="session")
def global_name():
    """A setting that is the class of that name, without the class: ``global_name("sb3_contrib.tqc.policies", "TQCPolicy")``."""

    def make(module, name):
        return {":serialized:": base64.b64encode(f"c{module}\n{name}\n.".encode()).decode()}

    return make


@pytest.fixture(scope="session")
def ppo_zip(tmp_path_factory, untrained):
    path = tmp_path_factory.mktemp("checkpoint") / "ppo.zip"
    untrained("PPO", path=path, policy_kwargs={"activation_fn": torch.nn.ReLU})
    return path


@pytest.fixture(scope="session")
def sac_zip(tmp_path_factory, untrained):
    path = tmp_path_factory.mktemp("checkpoint") / "sac.zip"
    untrained("SAC", path=path)
    return path


@pytest.fixture
def altered(tmp_path, ppo_zip):
    """A changed copy of a checkpoint: ``altered(data=function, state=function, without=[names], parts={name: bytes})``."""

    def make(source=ppo_zip, *, data=None, state=None, without=(), parts=None):
        path = tmp_path / "altered.zip"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                content = old.read(name)
                if name in without:
                    continue
                if name == "data" and data:
                    settings = json.loads(content)
                    data(settings)
                    content = json.dumps(settings).encode()
                if name == "policy.pth" and state:
                    tensors = torch.load(io.BytesIO(content), weights_only=True)
                    tensors = state(tensors) or tensors
                    buffer = io.BytesIO()
                    torch.save(tensors, buffer)
                    content = buffer.getvalue()
                new.writestr(name, (parts or {}).get(name, content))
        return path

    return make


@pytest.fixture(scope="session")
def shaken():
    """Makes an untrained model's weights large enough for limits, clips and activations to matter."""

    def shake(model, factor=3.0):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.policy.named_parameters():
                if "log_std" not in name:
                    parameter.mul_(factor).add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model

    return shake


@pytest.fixture(scope="session")
def rows():
    """Random observations, float32 [n, n_obs]."""

    def make(n_obs, n=300):
        return np.random.default_rng(0).uniform(-1, 1, (n, n_obs)).astype(np.float32)

    return make
