import base64
import io
import json
import pickle
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch

from balance_hil.checkpoint import read_checkpoint
from balance_hil.errors import CheckpointError
from balance_hil.runtimes.torch import TorchRuntime

OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (300, 6)).astype(np.float32)


class Bomb:
    """Runs code when it is unpickled: makes the file that it was given."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def ppo_zip(tmp_path_factory, untrained):
    path = tmp_path_factory.mktemp("checkpoint") / "ppo.zip"
    untrained("PPO", path=path, policy_kwargs={"activation_fn": torch.nn.ReLU})
    return path


@pytest.fixture
def altered(tmp_path, ppo_zip):
    """A copy of the PPO checkpoint: ``altered(data=function, state=function, without=[names])``."""

    def make(*, data=None, state=None, without=(), parts=None):
        path = tmp_path / "altered.zip"
        with zipfile.ZipFile(ppo_zip) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                content = source.read(name)
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
                target.writestr(name, (parts or {}).get(name, content))
        return path

    return make


@pytest.mark.parametrize(
    ("algorithm", "options", "activation", "bound"),
    [
        ("PPO", {}, "tanh", "clip"),
        ("PPO", {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": {"pi": [16], "vf": [4, 4]}}}, "relu", "clip"),
        ("PPO", {"policy_kwargs": {"net_arch": []}}, "tanh", "clip"),
        ("PPO", {"use_sde": True, "policy_kwargs": {"squash_output": True}}, "tanh", "tanh"),
        ("A2C", {"policy_kwargs": {"activation_fn": torch.nn.Sigmoid}}, "sigmoid", "clip"),
        ("SAC", {}, "relu", "tanh"),
        ("TD3", {}, "relu", "tanh"),
        ("DDPG", {"policy_kwargs": {"activation_fn": torch.nn.Tanh}}, "tanh", "tanh"),
    ],
)
def test_actor_is_what_predict_computes(tmp_path, untrained, algorithm, options, activation, bound):
    path = tmp_path / "policy.zip"
    model = untrained(algorithm, path=path, **options)
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if "log_std" not in name:
                parameter.mul_(3.0)  # large enough for the bound to matter
    model.save(path)
    actor = read_checkpoint(path)
    assert (actor.algorithm, actor.activation, actor.bound) == (algorithm.lower(), activation, bound)
    assert (actor.n_obs, actor.n_act) == (6, 2)
    expected, _ = model.predict(OBSERVATIONS, deterministic=True)
    assert np.max(np.abs(actor.act_batch(OBSERVATIONS) - expected)) < 1e-5
    assert np.max(np.abs(TorchRuntime(actor).act_batch(OBSERVATIONS) - expected)) < 1e-5


def test_pickled_code_in_the_settings_is_not_run(tmp_path, altered):
    evidence = tmp_path / "ran"

    def plant(settings):
        for value in settings.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = base64.b64encode(pickle.dumps(Bomb(evidence))).decode()

    assert read_checkpoint(altered(data=plant)).activation == "relu"
    assert not evidence.exists()


def test_pickled_code_in_the_weights_is_refused_and_not_run(tmp_path, altered):
    evidence = tmp_path / "ran"
    path = altered(state=lambda tensors: {**tensors, "bomb": Bomb(evidence)})
    with pytest.raises(CheckpointError, match="without running code"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="without running code"):
        read_checkpoint(path, trust=True)  # trust is for settings; weights never need it
    assert not evidence.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "policy.zip")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_zip_is_refused(tmp_path, content):
    path = tmp_path / "policy.zip"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no zip"):
        read_checkpoint(path)


def test_every_cut_is_refused(tmp_path, ppo_zip):
    whole = ppo_zip.read_bytes()
    path = tmp_path / "policy.zip"
    for size in range(0, len(whole), len(whole) // 25):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_flipped_bytes_are_refused_or_harmless(tmp_path, ppo_zip):
    whole = ppo_zip.read_bytes()
    path = tmp_path / "policy.zip"
    for position in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            actor = read_checkpoint(path)
        except CheckpointError:
            continue
        assert np.array_equal(actor.act_batch(OBSERVATIONS), read_checkpoint(ppo_zip).act_batch(OBSERVATIONS))


@pytest.mark.parametrize("part", ["data", "policy.pth"])
def test_a_zip_without_its_parts_is_no_checkpoint(altered, part):
    with pytest.raises(CheckpointError, match="no Stable-Baselines3 checkpoint"):
        read_checkpoint(altered(without=[part]))


def test_settings_that_are_no_json_are_refused(altered):
    with pytest.raises(CheckpointError):
        read_checkpoint(altered(parts={"data": b"\xff\xfe"}))


def test_another_algorithm_is_named(altered):
    path = altered(state=lambda tensors: {"q_net.q_net.0.weight": torch.zeros(8, 6), "q_net.q_net.0.bias": torch.zeros(8)})
    with pytest.raises(CheckpointError, match="value-based") as caught:
        read_checkpoint(path)
    assert "hil train" in caught.value.hint


@pytest.mark.parametrize(
    "key", ["features_extractor.cnn.0.weight", "lstm_actor.weight_ih_l0", "mlp_extractor.shared_net.0.weight"]
)
def test_a_policy_that_is_no_plain_mlp_is_refused(altered, key):
    with pytest.raises(CheckpointError, match="no plain MLP"):
        read_checkpoint(altered(state=lambda tensors: {**tensors, key: torch.zeros(2, 2)}))


def test_a_norm_between_layers_is_refused(altered):
    def insert(tensors):
        return {**tensors, "mlp_extractor.policy_net.1.weight": torch.ones(8), "mlp_extractor.policy_net.1.bias": torch.ones(8)}

    with pytest.raises(CheckpointError, match="no plain MLP"):
        read_checkpoint(altered(state=insert))


def test_layers_that_do_not_fit_are_refused(altered):
    with pytest.raises(CheckpointError, match="do not fit"):
        read_checkpoint(altered(state=lambda t: {**t, "action_net.weight": torch.zeros(2, 9)}))


def test_weights_that_are_not_finite_are_refused(altered):
    with pytest.raises(CheckpointError, match="NaN"):
        read_checkpoint(altered(state=lambda t: {**t, "action_net.bias": torch.tensor([0.0, float("nan")])}))


def test_an_action_range_that_the_actor_does_not_bound_is_refused(tmp_path, untrained):
    class WideEnv(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (6,), np.float32)
        action_space = gym.spaces.Box(-2, 2, (2,), np.float32)

    path = tmp_path / "policy.zip"
    untrained("PPO", path=path, env=WideEnv())
    with pytest.raises(CheckpointError, match=r"not limited to -1\.\.1"):
        read_checkpoint(path)


def test_an_unsupported_activation_is_named(altered):
    def change(settings):
        settings["policy_kwargs"]["activation_fn"] = "<class 'torch.nn.modules.activation.GELU'>"

    with pytest.raises(CheckpointError, match="GELU"):
        read_checkpoint(altered(data=change))


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.pop("policy_kwargs"),
        lambda settings: settings["policy_kwargs"].update(activation_fn="<function mine at 0x7f>"),
        lambda settings: settings["policy_class"].update(__module__="mine.policies"),
    ],
    ids=["no kwargs", "a function", "own class"],
)
def test_what_is_not_readable_asks_for_trust(altered, change):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(altered(data=change))
    assert "--trust" in caught.value.hint


def test_trust_lets_stable_baselines_tell_the_activation(altered):
    def hide(settings):
        settings["policy_kwargs"]["activation_fn"] = "<function mine at 0x7f>"  # the pickle beside it still says ReLU

    path = altered(data=hide)
    assert read_checkpoint(path, trust=True).activation == "relu"


def test_trust_does_not_cover_a_policy_that_computes_something_else(altered, monkeypatch):
    from stable_baselines3.common.policies import ActorCriticPolicy

    path = altered(data=lambda settings: settings["policy_class"].update(__module__="mine.policies"))
    monkeypatch.setattr(ActorCriticPolicy, "_predict", lambda self, obs, deterministic=False: torch.zeros(len(obs), 2))
    with pytest.raises(CheckpointError, match="something else"):
        read_checkpoint(path, trust=True)
