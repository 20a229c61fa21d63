"""Our gradient steps, against Stable-Baselines3's own and against a policy that is not smooth."""

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")

import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.logger import configure

from balance_hil.environment import open_environment
from balance_hil.training.gradient_steps import (
    DelayedSAC,
    SmoothDDPG,
    SmoothTD3,
    SymmetricA2C,
    SymmetricPPO,
    symmetry_loss_of,
)
from balance_hil.training.vec_env import TrainingEnvs


def training_envs():
    return TrainingEnvs(open_environment("balance/Balance-v0"), 4, 100, (1, 0), 1)


OFF = {"observation_noise": [0.03] * 6, "spatial_weight": 0.0, "saturation_weight": 0.0}


def trained(algorithm, smoothness, gradient_steps, monkeypatch, batch_size=64, n_steps=3):
    """A model after some gradient steps on random transitions, without any noise in targets."""
    env = training_envs()
    model = algorithm(
        "MlpPolicy",
        env,
        n_steps=n_steps,
        seed=0,
        buffer_size=400,
        policy_kwargs={"net_arch": {"pi": [8], "qf": [16]}},
        device="cpu",
    )
    model.target_policy_noise = 0.0
    model.smoothness, model.symmetries = smoothness, []
    model.set_logger(configure(None, []))
    observations, rng = env.reset(), np.random.default_rng(0)
    for _ in range(100):
        actions = rng.uniform(-1, 1, (4, 2)).astype(np.float32)
        following, rewards, dones, infos = env.step(actions)
        model.replay_buffer.add(observations, following, actions, rewards, dones, infos)
        observations = following
    rows = model.replay_buffer.sample(batch_size)

    # Every batch holds the same rows, however many are asked for.
    def repeated(n, env=None):
        return type(rows)(*(part if part is None else part.repeat(n // batch_size, 1) for part in rows))

    monkeypatch.setattr(model.replay_buffer, "sample", repeated)
    model.train(gradient_steps, batch_size)
    return model, rows.observations


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(("ours", "theirs"), [(SmoothTD3, TD3), (SmoothDDPG, DDPG), (DelayedSAC, SAC)])
def test_without_weights_it_is_the_published_algorithm(ours, theirs, n_steps, monkeypatch):
    (mine, _), (reference, _) = (trained(kind, OFF, 6, monkeypatch, n_steps=n_steps) for kind in (ours, theirs))
    for name, value in reference.policy.state_dict().items():
        np.testing.assert_allclose(
            mine.policy.state_dict()[name].numpy(), value.numpy(), atol=2e-5, err_msg=name
        )  # SAC halves a loss, which Adam forgives up to its epsilon


A2C_SETTINGS = {"n_steps": 16, "normalize_advantage": True, "use_rms_prop": False}
PPO_SETTINGS = {"n_steps": 16, "batch_size": 32, "n_epochs": 2}


def updated(algorithm, settings, symmetry_weight, updates=1, **attributes):
    env = training_envs()
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **settings)
    model.symmetry_weight, model.symmetries = symmetry_weight, env._environment.env.unwrapped.policy_symmetries
    vars(model).update(attributes)
    model.learn(64 * updates)
    return model, torch.as_tensor(env.reset())


def actor_of(model):
    return {name: value.numpy() for name, value in model.policy.state_dict().items() if "value" not in name}


@pytest.mark.parametrize(("ours", "theirs", "settings"), [(SymmetricA2C, A2C, A2C_SETTINGS), (SymmetricPPO, PPO, PPO_SETTINGS)])
def test_without_a_symmetry_loss_it_is_the_published_algorithm_too(ours, theirs, settings):
    (mine, _), (reference, _) = (updated(kind, settings, 0.0) for kind in (ours, theirs))
    for name, value in reference.policy.state_dict().items():
        np.testing.assert_allclose(mine.policy.state_dict()[name].numpy(), value.numpy(), atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "settings"), [(SymmetricA2C, A2C_SETTINGS), (SymmetricPPO, PPO_SETTINGS)])
def test_the_symmetry_loss_makes_the_policy_symmetric(algorithm, settings):
    def asymmetry(weight):
        model, observations = updated(algorithm, settings, weight, updates=12)
        return symmetry_loss_of(model.policy, observations, model.symmetries).item()

    assert asymmetry(100.0) < 0.3 * asymmetry(1e-9)  # with which PPO learns from the images still


def test_with_no_image_but_itself_the_own_update_of_ppo_is_the_published_one():
    itself = {"observation": list(range(6)), "observation_sign": [1.0] * 6, "action": [0, 1], "action_sign": [1.0] * 2}
    mine, _ = updated(SymmetricPPO, PPO_SETTINGS, 1.0, symmetries=[itself])
    reference, _ = updated(PPO, PPO_SETTINGS, 0.0)
    for name, value in reference.policy.state_dict().items():
        np.testing.assert_allclose(mine.policy.state_dict()[name].numpy(), value.numpy(), atol=1e-6, err_msg=name)


def test_at_first_only_the_critic_of_ppo_learns():
    start, _ = updated(SymmetricPPO, PPO_SETTINGS, 1.0, updates=0)
    waited, _ = updated(SymmetricPPO, PPO_SETTINGS, 1.0, critic_steps=64)
    began, _ = updated(SymmetricPPO, PPO_SETTINGS, 1.0, updates=2, critic_steps=64)
    for name, value in actor_of(start).items():
        np.testing.assert_array_equal(actor_of(waited)[name], value, err_msg=name)
    assert any((actor_of(began)[name] != value).any() for name, value in actor_of(start).items())
    assert (waited.policy.value_net.weight != start.policy.value_net.weight).any()


def test_a_delayed_sac_updates_its_actor_every_other_time(monkeypatch):
    monkeypatch.setattr(DelayedSAC, "policy_delay", 2)
    model, _ = trained(DelayedSAC, OFF, 5, monkeypatch)
    assert model.critic.optimizer.state_dict()["state"][0]["step"] == 5
    assert model.actor.optimizer.state_dict()["state"][0]["step"] == 2


def test_the_spatial_term_makes_the_policy_flatter(monkeypatch):
    def roughness(smoothness):
        model, observations = trained(SmoothDDPG, smoothness, 60, monkeypatch)
        with torch.no_grad():
            noise = torch.randn(observations.shape, generator=torch.Generator().manual_seed(0)) * 0.03
            return (model.actor(observations) - model.actor(observations + noise)).abs().mean().item()

    assert roughness(OFF | {"spatial_weight": 200.0}) < 0.7 * roughness(OFF)


def test_the_saturation_term_keeps_the_output_off_the_ends(monkeypatch):
    def reach(smoothness):
        model, observations = trained(SmoothDDPG, smoothness, 60, monkeypatch)
        with torch.no_grad():
            return model.actor(observations).abs().mean().item()

    assert reach(OFF | {"saturation_weight": 50.0}) < 0.7 * reach(OFF)


def test_only_the_actor_learns_from_the_actors_loss(monkeypatch):
    model, observations = trained(SmoothDDPG, OFF, 1, monkeypatch)
    before = [weights.clone() for weights in model.critic.parameters()]
    model._update_actor(observations)
    assert all(torch.equal(a, b) for a, b in zip(before, model.critic.parameters(), strict=True))
    assert all(weights.requires_grad for weights in model.critic.parameters())
