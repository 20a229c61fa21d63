"""Stable-Baselines3 zips: what every kind computes, and what is refused by name."""

import base64
import io
import pickle
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch

from balance_hil.checkpoint import find_checkpoint, open_checkpoint, read_checkpoint
from balance_hil.checkpoint.sb3_reference import largest_difference, rebuilt_predict
from balance_hil.errors import CheckpointError, MissingExtraError
from balance_hil.runtimes.torch import TorchRuntime

BOX = gym.spaces.Box
UNEVEN = BOX(np.array([-2.0, 0.0, -0.5], np.float32), np.array([2.0, 1.0, 3.0], np.float32))
SIX = BOX(-1.0, 1.0, (6,), np.float32)


class Bomb:
    """Runs code when it is unpickled: makes the file that it was given."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("algorithm", "options", "action", "activations"),
    [
        ("PPO", {}, UNEVEN, ["tanh", "tanh", "clip"]),
        ("PPO", {"policy_kwargs": {"net_arch": {"pi": [16], "vf": [4, 4]}}}, SIX, ["tanh", "clip"]),
        ("PPO", {"policy_kwargs": {"net_arch": {"pi": [], "vf": [4]}}}, UNEVEN, ["clip"]),
        ("PPO", {"use_sde": True}, UNEVEN, ["tanh", "tanh", "clip"]),
        ("PPO", {"use_sde": True, "policy_kwargs": {"squash_output": True}}, UNEVEN, ["tanh", "tanh", "tanh"]),
        ("PPO", {}, gym.spaces.Discrete(4), ["tanh", "tanh", ""]),
        ("A2C", {"policy_kwargs": {"activation_fn": torch.nn.ELU}}, BOX(-2.0, 2.0, (2, 1), np.float32), ["elu", "elu", "clip"]),
        ("SAC", {}, UNEVEN, ["relu", "relu", "tanh"]),
        ("SAC", {"use_sde": True, "policy_kwargs": {"net_arch": [5, 4]}}, UNEVEN, ["relu", "relu", "clip", "tanh"]),
        ("SAC", {"use_sde": True, "policy_kwargs": {"clip_mean": 0.3}}, UNEVEN, ["relu", "relu", "clip", "tanh"]),
        ("SAC", {"use_sde": True, "policy_kwargs": {"clip_mean": 0.0}}, UNEVEN, ["relu", "relu", "tanh"]),
        ("TD3", {"policy_kwargs": {"activation_fn": torch.nn.SiLU}}, UNEVEN, ["silu", "silu", "tanh"]),
        ("DDPG", {"policy_kwargs": {"net_arch": []}}, UNEVEN, ["tanh"]),
    ],
)
def test_the_actor_is_what_predict_computes(
    tmp_path, untrained, shaken, spaces_env, rows, algorithm, options, action, activations
):
    path = tmp_path / "policy.zip"
    model = shaken(untrained(algorithm, env=spaces_env(SIX, action), **options))
    model.save(path)
    opened = open_checkpoint(path)
    actor = opened.actor
    assert actor.algorithm == algorithm.lower()
    assert [layer.activation for layer in actor.layers] == activations
    observations = rows(6)
    expected, _ = model.predict(observations, deterministic=True)
    outputs = actor.act_batch(observations)
    assert largest_difference(actor.action_map, outputs, expected) < 1e-5
    assert actor.action_map(outputs).shape == expected.shape
    assert np.max(np.abs(TorchRuntime(actor).act_batch(observations) - outputs)) < 1e-5
    predict, name = rebuilt_predict(opened)
    assert np.array_equal(predict(observations), expected)
    assert "Stable-Baselines3" in name


def test_observations_of_any_shape_are_flattened_row_by_row(tmp_path, untrained, shaken, spaces_env, rows):
    model = shaken(untrained("PPO", env=spaces_env(BOX(-1.0, 1.0, (2, 3), np.float64), SIX)))
    model.save(tmp_path / "policy.zip")
    actor = read_checkpoint(tmp_path / "policy.zip")
    expected, _ = model.predict(rows(6).reshape(-1, 2, 3), deterministic=True)
    assert largest_difference(actor.action_map, actor.act_batch(rows(6)), expected) < 1e-5


# --- sb3-contrib and older versions, which are not installed: the same tensors under other names -----------------------------


def test_trpo_and_tqc_are_named_rightly(altered, sac_zip, global_name):
    assert read_checkpoint(altered(data=lambda s: s.update(cg_max_steps=15))).algorithm == "trpo"
    tqc = altered(sac_zip, data=lambda s: s.update(policy_class=global_name("sb3_contrib.tqc.policies", "TQCPolicy")))
    assert read_checkpoint(tqc).algorithm == "tqc"


def test_trust_names_sb3_contrib_where_it_is_needed(altered, monkeypatch):
    from balance_hil.checkpoint import sb3_reference

    monkeypatch.setattr(sb3_reference, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="sb3-contrib") as caught:
        read_checkpoint(altered(data=lambda s: s.update(cg_max_steps=15)), trust=True)
    assert caught.value.hint == "install it: pip install sb3-contrib"


def test_shared_layers_of_version_1_come_first(altered, rows):
    def share(tensors):
        return {
            key.replace("policy_net.0", "shared_net.0").replace("policy_net.2", "policy_net.0"): value
            for key, value in tensors.items()
        }

    actor, plain = read_checkpoint(altered(state=share)), read_checkpoint(altered())
    assert np.array_equal(actor.act_batch(rows(6)), plain.act_batch(rows(6)))


@pytest.mark.parametrize("squash", [None, False])
def test_ars_is_an_mlp_without_a_distribution(altered, ppo_zip, global_name, rows, squash):
    def rename(tensors):
        kept = {
            key.replace("mlp_extractor.policy_net", "action_net"): value for key, value in tensors.items() if "policy_net" in key
        }
        return {**kept, "action_net.4.weight": tensors["action_net.weight"], "action_net.4.bias": tensors["action_net.bias"]}

    def settings(data):
        data["policy_class"] = global_name("sb3_contrib.ars.policies", "ARSPolicy")
        data["policy_kwargs"] = {} if squash is None else {"squash_output": squash}

    actor = read_checkpoint(altered(state=rename, data=settings))
    assert (actor.algorithm, actor.layers[-1].activation) == ("ars", "clip" if squash is False else "tanh")
    assert np.array_equal(actor.weights[0], read_checkpoint(ppo_zip).weights[0])


def test_the_linear_policy_of_ars_has_no_bias(altered, global_name):
    def settings(data):
        data["policy_class"] = global_name("sb3_contrib.ars.policies", "ARSLinearPolicy")

    path = altered(state=lambda t: {"action_net.weight": torch.ones(2, 6)}, data=settings)
    actor = read_checkpoint(path)
    assert [layer.activation for layer in actor.layers] == ["clip"]
    assert np.array_equal(actor.biases[0], [0, 0])


def test_the_batch_norm_of_crossq_is_folded_into_the_next_layer(altered, sac_zip, global_name, rows):
    rng = np.random.default_rng(3)
    norms = {
        place: [rng.normal(0, 1, size), rng.uniform(0.5, 2, size), *rng.normal(0, 1, (2, size))]
        for place, size in ((0, 6), (3, 8), (6, 8))
    }

    def insert(tensors):
        moved = {}
        for key, value in tensors.items():
            moved[key.replace("latent_pi.0", "latent_pi.1").replace("latent_pi.2", "latent_pi.4")] = value
        for place, parts in norms.items():
            names = [f"actor.latent_pi.{place}.{part}" for part in ("ra_mean", "ra_var", "scale", "bias")]
            moved |= {name: torch.tensor(part) for name, part in zip(names, parts, strict=True)}
            moved[f"actor.latent_pi.{place}.steps"] = torch.tensor(5)
        return moved

    path = altered(
        sac_zip, state=insert, data=lambda s: s.update(policy_class=global_name("sb3_contrib.crossq.policies", "CrossQPolicy"))
    )
    crossq, sac = read_checkpoint(path), read_checkpoint(sac_zip)
    values = rows(6).astype(np.float64)
    for place, layer in zip(norms, sac.layers, strict=True):
        mean, variance, scale, bias = norms[place]
        values = scale * (values - mean) / np.sqrt(variance + 1e-3) + bias
        values = values @ layer.weight.T + layer.bias
        values = np.tanh(values) if layer.activation == "tanh" else np.maximum(values, 0)
    assert crossq.algorithm == "crossq"
    assert np.max(np.abs(crossq.act_batch(rows(6)) - values)) < 1e-5


# --- refused by name --------------------------------------------------------------------------------------------------------


class Tripled(torch.nn.Module):
    """A features extractor without weights."""

    def __init__(self, observation_space):
        super().__init__()
        self.features_dim = 6

    def forward(self, observations):
        return 3 * observations


def test_a_features_extractor_of_ones_own_is_refused_and_trust_compares(tmp_path, untrained):
    path = tmp_path / "policy.zip"
    untrained("PPO", path=path, policy_kwargs={"features_extractor_class": Tripled})
    with pytest.raises(CheckpointError, match=r"features extractor of its own.*Tripled") as caught:
        read_checkpoint(path)
    assert "--trust" in caught.value.hint
    with pytest.raises(CheckpointError, match="computes something else than a plain MLP"):
        read_checkpoint(path, trust=True)


@pytest.mark.parametrize(
    ("observation", "action", "policy", "name"),
    [
        (gym.spaces.Dict({"a": SIX}), SIX, "MultiInputPolicy", "Dict observations"),
        (BOX(0, 255, (36, 36, 3), np.uint8), SIX, "CnnPolicy", "a CNN policy"),
        (BOX(0, 255, (36, 36, 3), np.uint8), SIX, "MlpPolicy", "images"),
        (gym.spaces.Discrete(5), SIX, "MlpPolicy", "Discrete observations"),
        (SIX, gym.spaces.MultiDiscrete([2, 3]), "MlpPolicy", "MultiDiscrete actions"),
        (SIX, gym.spaces.MultiBinary(3), "MlpPolicy", "MultiBinary actions"),
    ],
)
def test_spaces_that_no_board_has_are_named(tmp_path, spaces_env, observation, action, policy, name):
    from stable_baselines3 import A2C

    kwargs = {} if policy == "CnnPolicy" else {"net_arch": [4]}
    A2C(policy, spaces_env(observation, action), policy_kwargs=kwargs, device="cpu").save(tmp_path / "policy.zip")
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / "policy.zip")


def test_a_recurrent_policy_is_named(altered, global_name):
    module = "sb3_contrib.common.recurrent.policies"
    path = altered(
        state=lambda t: {**t, "lstm_actor.weight_ih_l0": torch.zeros(4, 6)},
        data=lambda s: s.update(policy_class=global_name(module, "RecurrentActorCriticPolicy")),
    )
    with pytest.raises(CheckpointError, match="recurrent policy"):
        read_checkpoint(path)


def test_another_algorithm_is_named(altered, global_name):
    path = altered(
        state=lambda t: {"q_net.q_net.0.weight": torch.zeros(8, 6)},
        data=lambda s: s.update(policy_class=global_name("stable_baselines3.dqn.policies", "DQNPolicy")),
    )
    with pytest.raises(CheckpointError, match="value-based") as caught:
        read_checkpoint(path)
    assert "PPO" in caught.value.hint


@pytest.mark.parametrize(
    "key", ["lstm_actor.weight_ih_l0", "mlp_extractor.policy_net.1.weight", "pi_features_extractor.linear.weight"]
)
def test_a_tensor_that_nobody_reads_is_an_error(altered, key):
    with pytest.raises(CheckpointError, match="not a plain MLP"):
        read_checkpoint(altered(state=lambda t: {**t, key: torch.zeros(8, 8)}))


def test_a_setting_that_is_not_known_is_an_error(altered):
    with pytest.raises(CheckpointError, match="not known here: spectral_norm"):
        read_checkpoint(altered(data=lambda s: s.update(policy_kwargs={"spectral_norm": True})))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"squash_output": True}, "without gSDE"),
        ({"use_sde": True}, "log_std does not fit"),
        ({"squash_output": "False"}, "neither true nor false"),
        ({"activation_fn": "<function mine at 0x7f>"}, "activation <function mine"),
    ],
)
def test_settings_that_contradict_the_tensors_are_errors(altered, settings, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(altered(data=lambda s: s.update(policy_kwargs=settings)))


def test_an_unsupported_activation_is_named(altered, untrained, tmp_path):
    untrained("PPO", path=tmp_path / "policy.zip", policy_kwargs={"activation_fn": torch.nn.GELU})
    with pytest.raises(CheckpointError, match="GELU"):
        read_checkpoint(tmp_path / "policy.zip")


def test_a_policy_class_of_ones_own_asks_for_trust(altered, global_name):
    path = altered(data=lambda s: s.update(policy_class=global_name("mine.policies", "MyPolicy")))
    with pytest.raises(CheckpointError, match=r"mine\.policies\.MyPolicy") as caught:
        read_checkpoint(path)
    assert "--trust" in caught.value.hint


def test_layers_that_do_not_fit_are_refused(altered):
    with pytest.raises(CheckpointError, match="do not fit one another"):
        read_checkpoint(altered(state=lambda t: {**t, "action_net.weight": torch.zeros(2, 9)}))
    with pytest.raises(CheckpointError, match="do not fit its spaces"):
        read_checkpoint(altered(state=lambda t: {**t, "mlp_extractor.policy_net.0.weight": torch.zeros(8, 7)}))


def test_weights_that_are_not_finite_are_refused(altered):
    with pytest.raises(CheckpointError, match="NaN"):
        read_checkpoint(altered(state=lambda t: {**t, "action_net.bias": torch.tensor([0.0, float("nan")])}))


# --- names of files ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_found_as_stable_baselines_names_it(tmp_path, ppo_zip):
    (tmp_path / "best_model.zip").write_bytes(ppo_zip.read_bytes())
    for given in (tmp_path / "best_model", tmp_path / "best_model.zip", tmp_path):
        assert find_checkpoint(given) == tmp_path / "best_model.zip"
    (tmp_path / "final.zip").write_bytes(ppo_zip.read_bytes())
    with pytest.raises(CheckpointError, match=r"best_model\.zip, final\.zip"):
        find_checkpoint(tmp_path)
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.yml").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "final.zip"  # a folder of rl-baselines3-zoo
    (tmp_path / "final" / "config.yml").unlink()
    (tmp_path / "policy.zip").write_bytes(ppo_zip.read_bytes())
    assert find_checkpoint(tmp_path) == tmp_path / "policy.zip"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such checkpoint or folder: .*absent"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)


def test_weights_alone_are_refused_under_their_name(tmp_path):
    path = tmp_path / "policy.pth"
    torch.save({}, path)
    with pytest.raises(CheckpointError, match=r"policy\.pth contains weights without"):
        read_checkpoint(path)


# --- hostile and damaged files ------------------------------------------------------------------------------------------------


def test_pickled_code_in_the_settings_is_not_run(tmp_path, altered):
    marker = tmp_path / "ran"

    def plant(settings):
        for key, value in settings.items():
            if isinstance(value, dict) and ":serialized:" in value and key != "observation_space":
                value[":serialized:"] = base64.b64encode(pickle.dumps(Bomb(marker))).decode()

    with pytest.raises(CheckpointError):  # the class of the policy is now a function named open
        read_checkpoint(altered(data=plant))
    assert not marker.exists()


def test_pickled_code_in_the_weights_is_refused_and_not_run(tmp_path, altered):
    marker = tmp_path / "ran"
    path = altered(state=lambda tensors: {**tensors, "bomb": Bomb(marker)})
    for trust in (False, True):  # trust is for settings; weights never need it
        with pytest.raises(CheckpointError, match="without running code"):
            read_checkpoint(path, trust=trust)
    assert not marker.exists()


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


def test_flipped_bytes_are_refused_or_harmless(tmp_path, ppo_zip, rows):
    whole = ppo_zip.read_bytes()
    path = tmp_path / "policy.zip"
    for position in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            actor = read_checkpoint(path)
        except CheckpointError:
            continue
        assert np.array_equal(actor.act_batch(rows(6)), read_checkpoint(ppo_zip).act_batch(rows(6)))


@pytest.mark.parametrize("part", ["data", "policy.pth"])
def test_a_zip_without_its_parts_is_no_checkpoint(altered, part):
    with pytest.raises(CheckpointError, match="not a Stable-Baselines3 checkpoint"):
        read_checkpoint(altered(without=[part]))


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[]", b"[" * 100_000, b"{}", b'{"policy_kwargs": 1}'])
def test_settings_that_are_no_settings_are_refused(altered, data):
    with pytest.raises(CheckpointError):
        read_checkpoint(altered(parts={"data": data}))


def test_a_part_that_grows_beyond_its_limit_is_not_unpacked(altered, monkeypatch):
    from balance_hil.checkpoint import sb3

    monkeypatch.setitem(sb3._MAX_BYTES, "data", 1 << 20)
    path = altered(parts={"data": b" " * (5 << 20)})  # a few kB in the file
    assert path.stat().st_size < 1 << 18
    with pytest.raises(CheckpointError, match="larger than 1 MiB"):
        read_checkpoint(path)


def test_weights_whose_archive_lies_about_its_size_are_refused(altered, monkeypatch):
    from balance_hil.checkpoint import sb3

    monkeypatch.setitem(sb3._MAX_BYTES, "policy.pth", 1 << 16)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 20))
    with pytest.raises(CheckpointError, match="larger than the limit"):
        read_checkpoint(altered(parts={"policy.pth": inner.getvalue()}))
