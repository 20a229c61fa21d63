"""Gradient steps of PPO, A2C, SAC, TD3 and DDPG that differ from Stable-Baselines3's: smooth actors, symmetry, few calls.

On tensors this small the calls take most of the time of a gradient step: rows for all steps are sampled at once, optimizers and
target networks are updated with one call each. A saved model is Stable-Baselines3's.

Symmetry augmentation learns from the images of every step: "On Learning Symmetric Locomotion" (Abdolhosseini, Ling, Xie, Peng,
van de Panne; MIG 2019). The environment defines the images (``policy_symmetries``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from torch.nn import functional


def symmetric_rows(values: torch.Tensor, symmetries: Sequence[Mapping[str, list[Any]]], name: str) -> torch.Tensor:
    """Row 0 as it is, row 1 as the first symmetry makes it, and so on round and round; twice it gives the original again.

    Args:
        values: float32 [rows, n].
        symmetries: each with the lists "observation" and "action", the signal that each becomes, and "observation_sign" and
            "action_sign".
        name: "observation" or "action": what the rows are.
    """
    mixed, n = values.clone(), len(symmetries) + 1
    for first, image in enumerate(symmetries, start=1):
        mixed[first::n] = values[first::n][:, image[name]] * values.new_tensor(image[f"{name}_sign"])
    return mixed


def batches(model: Any, count: int, batch_size: int) -> Iterator[Any]:
    """``count`` batches of rows of the replay buffer, sampled in one call; where the model has symmetries, as their images."""
    rows = model.replay_buffer.sample(count * batch_size, env=model._vec_normalize_env)
    if symmetries := getattr(model, "symmetries", None):
        rows = rows._replace(
            observations=symmetric_rows(rows.observations, symmetries, "observation"),
            next_observations=symmetric_rows(rows.next_observations, symmetries, "observation"),
            actions=symmetric_rows(rows.actions, symmetries, "action"),
        )
    if rows.discounts is None:  # with an n_steps of 1
        rows = rows._replace(discounts=torch.full_like(rows.rewards, model.gamma))
    for parts in zip(*(part.split(batch_size) for part in rows), strict=True):
        yield type(rows)(*parts)


def update_critics(model: Any, data: Any, next_values: torch.Tensor) -> torch.Tensor:
    """One step of all critics toward reward plus discounted ``next_values``, float32 [batch, 1]; returns their loss."""
    targets = data.rewards + (1 - data.dones) * data.discounts * next_values
    values = torch.cat(model.critic(data.observations, data.actions), dim=1)
    loss = functional.mse_loss(values, targets.expand_as(values)) * values.shape[1]  # the sum over the critics
    return descend(model.critic.optimizer, loss)


def descend(optimizer: Any, loss: torch.Tensor) -> torch.Tensor:
    """One step of an optimizer; returns the loss without its graph."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@contextmanager
def frozen(parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    """Gradients pass through these parameters inside the ``with`` block, and are not computed for them."""
    held = list(parameters)
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def follow(targets: Sequence[torch.Tensor], live: Sequence[torch.Tensor], tau: float) -> None:
    """Moves target networks toward the live ones by the share ``tau``."""
    with torch.no_grad():
        torch._foreach_lerp_(targets, live, tau)


def log_losses(model: Any, actor_losses: Sequence[torch.Tensor], critic_losses: Sequence[torch.Tensor]) -> None:
    """Mean losses to the model's logger, read from the device once."""
    model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
    for name, losses in (("actor_loss", actor_losses), ("critic_loss", critic_losses)):
        if losses:
            model.logger.record(f"train/{name}", torch.stack(list(losses)).mean().item())


class DelayedSAC(SAC):  # type: ignore[misc]  # the base class has no types
    """SAC that updates its actor less often than its critics, as TD3 does: most of the cost of a gradient step is the actor's.

    With a ``policy_delay`` of 1 it computes what ``SAC`` does.
    """

    symmetries: Sequence[Mapping[str, list[Any]]] = ()
    policy_delay = 1  # gradient steps of the critics for one of the actor

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """``gradient_steps`` updates, each on ``batch_size`` rows of the buffer."""
        self.policy.set_training_mode(True)
        learned = [] if self.ent_coef_optimizer is None else [self.ent_coef_optimizer]
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer, *learned])
        live, targets = list(self.critic.parameters()), list(self.critic_target.parameters())
        actor_losses, critic_losses = [], []
        for data in batches(self, gradient_steps, batch_size):
            self._n_updates += 1
            actor_is_due = self._n_updates % self.policy_delay == 0
            entropy_weight = self._entropy_weight()
            if actor_is_due:
                actions, log_prob = self.actor.action_log_prob(data.observations)
                self._update_entropy_weight(log_prob)
            critic_losses.append(update_critics(self, data, self._next_values(data.next_observations, entropy_weight)))
            if actor_is_due:
                actor_losses.append(self._update_actor(data.observations, actions, entropy_weight * log_prob))
            follow(targets, live, self.tau)
        log_losses(self, actor_losses, critic_losses)
        self.logger.record("train/ent_coef", self._entropy_weight().item())

    def _entropy_weight(self) -> torch.Tensor:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    def _update_entropy_weight(self, log_prob: torch.Tensor) -> None:
        if self.ent_coef_optimizer is not None:
            descend(self.ent_coef_optimizer, -(self.log_ent_coef * (log_prob.detach() + self.target_entropy)).mean())

    def _next_values(self, observations: torch.Tensor, entropy_weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            actions, log_prob = self.actor.action_log_prob(observations)
            values = torch.cat(self.critic_target(observations, actions), dim=1).amin(dim=1, keepdim=True)
            return values - entropy_weight * log_prob.reshape(-1, 1)

    def _update_actor(self, observations: torch.Tensor, actions: torch.Tensor, entropy_cost: torch.Tensor) -> torch.Tensor:
        with frozen(self.critic.parameters()):
            values = torch.cat(self.critic(observations, actions), dim=1).amin(dim=1)
            return descend(self.actor.optimizer, (entropy_cost - values).mean())


class _SmoothActor:
    """Mix-in for ``TD3``: an actor that is kept smooth.

    A deterministic actor follows the slope of its critic to the ends of the action range and alternates between them: on the
    balance robot the stock DDPG changes its action by 0.26 to 0.76 per step. Two terms in the actor's loss prevent it, after
    "Regularizing Action Policies for Smooth Control with Reinforcement Learning" (CAPS; Mysore, Mabsout, Mancuso, Saenko;
    ICRA 2021; arXiv:2012.06644):

        spatial_weight * mean |pi(s) - pi(s + N(0, observation_noise))|^2       CAPS: similar observations, similar actions
        saturation_weight * mean |u(s)|^2,  pi = tanh(u)                        stay where tanh still has a slope

    The disturbance is a multiple of each sensor's own noise: where a signal is clean, a steep response to it costs nothing.
    CAPS's second term, of temporal smoothness, is part of the reward, which every algorithm uses.
    """

    symmetries: Sequence[Mapping[str, list[Any]]] = ()
    smoothness: dict[str, Any] = {}  # noqa: RUF012 - the fields of SmoothnessConfig, set on the instance

    def train(self: Any, gradient_steps: int, batch_size: int = 256) -> None:
        """``gradient_steps`` updates, each on ``batch_size`` rows of the buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        live = [*self.critic.parameters(), *self.actor.parameters()]
        targets = [*self.critic_target.parameters(), *self.actor_target.parameters()]
        actor_losses, critic_losses = [], []
        for data in batches(self, gradient_steps, batch_size):
            self._n_updates += 1
            critic_losses.append(update_critics(self, data, self._next_values(data.next_observations)))
            if self._n_updates % self.policy_delay == 0:
                actor_losses.append(self._update_actor(data.observations))
                follow(targets, live, self.tau)
        log_losses(self, actor_losses, critic_losses)

    def _next_values(self: Any, observations: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            actions = self.actor_target(observations)
            noise = torch.randn_like(actions).mul_(self.target_policy_noise)
            actions = (actions + noise.clamp_(-self.target_noise_clip, self.target_noise_clip)).clamp_(-1, 1)
            return torch.cat(self.critic_target(observations, actions), dim=1).amin(dim=1, keepdim=True)

    def _update_actor(self: Any, observations: torch.Tensor) -> torch.Tensor:
        features = self.actor.extract_features(observations, self.actor.features_extractor)
        noise = torch.randn_like(features) * features.new_tensor(self.smoothness["observation_noise"])
        before_tanh = self.actor.mu[:-1](torch.cat([features, features + noise]))
        actions, disturbed = torch.tanh(before_tanh).chunk(2)
        with frozen(self.critic.parameters()):
            loss = (
                -self.critic.q1_forward(observations, actions).mean()
                + self.smoothness["spatial_weight"] * (actions - disturbed).square().sum(dim=1).mean()
                + self.smoothness["saturation_weight"] * before_tanh.square().sum(dim=1).mean()
            )
            return descend(self.actor.optimizer, loss)


class SmoothTD3(_SmoothActor, TD3):  # type: ignore[misc]  # the base class has no types
    """TD3 with the smooth actor loss."""


class SmoothDDPG(_SmoothActor, DDPG):  # type: ignore[misc]  # the base class has no types
    """DDPG with the smooth actor loss."""


def symmetry_loss_of(policy: Any, observations: torch.Tensor, symmetries: Sequence[Mapping[str, list[Any]]]) -> torch.Tensor:
    """``mean |pi(s) - image(pi(image(s)))|^2`` of an actor's mean actions, each row in one of its images."""
    images = symmetric_rows(observations, symmetries, "observation")
    actions, others = (policy.action_net(policy.mlp_extractor.forward_actor(rows)) for rows in (observations, images))
    return (actions - symmetric_rows(others, symmetries, "action")).square().sum(dim=1).mean()


class SymmetricA2C(A2C):  # type: ignore[misc]  # the base class has no types
    """A2C that is pulled toward a policy without a preferred side or direction.

    A small preference for one side is a steady yaw rate, and once the robot spins the reward is flat: one of the first seeds
    ended up spinning at 44 rad/s. The loss gets ``symmetry_weight * mean |pi(s) - image(pi(image(s)))|^2``, of the mean actions,
    each row in one of its images. With a weight of 0 it computes what ``A2C`` does.
    """

    symmetry_weight = 0.0
    symmetries: Sequence[Mapping[str, list[Any]]] = ()

    def train(self) -> None:
        """One update on the whole rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        data = next(self.rollout_buffer.get(batch_size=None))
        values, log_prob, entropy = self.policy.evaluate_actions(data.observations, data.actions)
        advantages = data.advantages
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = -(advantages * log_prob).mean()
        value_loss = functional.mse_loss(data.returns, values.flatten())
        symmetry_loss = (
            symmetry_loss_of(self.policy, data.observations, self.symmetries) if self.symmetry_weight else torch.zeros(())
        )
        loss = (
            policy_loss
            - self.ent_coef * entropy.mean()
            + self.vf_coef * value_loss
            + self.symmetry_weight * symmetry_loss.to(self.device)
        )
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in (("policy", policy_loss), ("value", value_loss), ("symmetry", symmetry_loss)):
            self.logger.record(f"train/{name}_loss", value.item())


class SymmetricPPO(PPO):  # type: ignore[misc]  # the base class has no types
    """PPO that learns from images of the steps, too, and is pulled toward a symmetric policy as ``SymmetricA2C`` is.

    Without it the noise of the gradients leaves a preference for one side, several times the error that a regulator has. With a
    weight of 0 it is ``PPO``.
    """

    symmetry_weight = 0.0
    symmetries: Sequence[Mapping[str, list[Any]]] = ()
    critic_steps = 0  # environment steps at the start of the training in which the actor stays as it is

    def train(self) -> None:
        """Updates on the rollout, as ``PPO.train``, each row of a minibatch in one of its images."""
        if not (self.symmetry_weight or self.critic_steps):
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip = self.clip_range(self._current_progress_remaining)
        for _ in range(self.n_epochs):
            for data in self.rollout_buffer.get(self.batch_size):
                self._descend(data, clip)
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/std", self.policy.log_std.exp().mean().item())

    def _descend(self, data: Any, clip: float) -> None:
        observations = symmetric_rows(data.observations, self.symmetries, "observation")
        actions = symmetric_rows(data.actions, self.symmetries, "action")
        values, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
        advantages = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
        ratio = torch.exp(log_prob - data.old_log_prob)
        loss = self.vf_coef * functional.mse_loss(data.returns, values.flatten())
        if self.num_timesteps > self.critic_steps:
            loss = loss - torch.min(advantages * ratio, advantages * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()
            loss = loss - self.ent_coef * entropy.mean()
            loss = loss + self.symmetry_weight * symmetry_loss_of(self.policy, data.observations, self.symmetries)
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
