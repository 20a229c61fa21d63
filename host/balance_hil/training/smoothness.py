"""TD3 and DDPG whose actor is kept smooth, and whose gradient step makes fewer calls than Stable-Baselines3's.

A deterministic actor follows the slope of its critic to the ends of the action range and alternates between them: the stock DDPG
changes its action by 0.26 to 0.76 per step. Two terms in the actor's loss prevent it, after "Regularizing Action Policies for
Smooth Control with Reinforcement Learning" (CAPS; Mysore, Mabsout, Mancuso, Saenko; ICRA 2021; arXiv:2012.06644):

    spatial_weight * mean |pi(s) - pi(s + N(0, observation_noise))|^2       CAPS: similar observations, similar actions
    saturation_weight * mean |u(s)|^2,  pi = tanh(u)                        stay where tanh still has a slope

CAPS's second term, of temporal smoothness, is in the reward here (``action_rate``), where every algorithm sees it.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import DDPG, TD3
from torch.nn import functional


class _SmoothActor:
    """Mix-in for ``TD3``: replaces ``train``. The rest, and the form of a saved model, is Stable-Baselines3's."""

    smoothness: dict[str, float]

    def train(self: Any, gradient_steps: int, batch_size: int = 256) -> None:
        """``gradient_steps`` updates, each on ``batch_size`` rows of the buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        critic = list(self.critic.parameters())
        live = [*critic, *self.actor.parameters()]
        targets = [*self.critic_target.parameters(), *self.actor_target.parameters()]
        actor_losses, critic_losses = [], []
        # Rows for all gradient steps in one call.
        rows = self.replay_buffer.sample(gradient_steps * batch_size, env=self._vec_normalize_env)
        for batch in zip(*(None if part is None else part.split(batch_size) for part in rows), strict=True):
            data = type(rows)(*batch)
            self._n_updates += 1
            critic_losses.append(self._update_critic(data))
            if self._n_updates % self.policy_delay == 0:
                actor_losses.append(self._update_actor(data.observations, critic))
                with torch.no_grad():
                    torch._foreach_lerp_(targets, live, self.tau)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if actor_losses:
            self.logger.record("train/actor_loss", torch.stack(actor_losses).mean().item())
        self.logger.record("train/critic_loss", torch.stack(critic_losses).mean().item())

    def _update_critic(self: Any, data: Any) -> torch.Tensor:
        with torch.no_grad():
            noise = torch.randn_like(data.actions).mul_(self.target_policy_noise)
            noise = noise.clamp_(-self.target_noise_clip, self.target_noise_clip)
            next_actions = (self.actor_target(data.next_observations) + noise).clamp_(-1, 1)
            next_values = torch.cat(self.critic_target(data.next_observations, next_actions), dim=1).amin(dim=1, keepdim=True)
            targets = data.rewards + (1 - data.dones) * data.discounts * next_values
        values = torch.cat(self.critic(data.observations, data.actions), dim=1)
        # The sum of the critics' mean squared errors.
        loss = functional.mse_loss(values, targets.expand_as(values)) * values.shape[1]
        self.critic.optimizer.zero_grad()
        loss.backward()
        self.critic.optimizer.step()
        return loss.detach()

    def _update_actor(self: Any, observations: torch.Tensor, critic: list[torch.Tensor]) -> torch.Tensor:
        noise = torch.randn_like(observations).mul_(self.smoothness["observation_noise"])
        hidden = self.actor.mu[:-1](torch.cat([observations, observations + noise]))  # without the final tanh
        actions, disturbed = torch.tanh(hidden).chunk(2)
        for weights in critic:  # only the actor learns from this loss
            weights.requires_grad_(False)
        loss = (
            -self.critic.q1_forward(observations, actions).mean()
            + self.smoothness["spatial_weight"] * (actions - disturbed).square().sum(dim=1).mean()
            + self.smoothness["saturation_weight"] * hidden.square().sum(dim=1).mean()
        )
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()
        for weights in critic:
            weights.requires_grad_(True)
        return loss.detach()


class SmoothTD3(_SmoothActor, TD3):  # type: ignore[misc]
    """TD3 with the smooth actor loss."""


class SmoothDDPG(_SmoothActor, DDPG):  # type: ignore[misc]
    """DDPG with the smooth actor loss."""
