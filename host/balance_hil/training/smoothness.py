"""TD3 and DDPG whose actor is kept smooth.

A deterministic actor follows the slope of its critic to the ends of the action range and alternates between them: the stock DDPG
changes its action by 0.26 to 0.76 per step. Two terms in the actor's loss prevent it, after "Regularizing Action Policies for
Smooth Control with Reinforcement Learning" (CAPS; Mysore, Mabsout, Mancuso, Saenko; ICRA 2021; arXiv:2012.06644):

    spatial_weight * mean |pi(s) - pi(s + N(0, observation_noise))|^2       CAPS: similar observations, similar actions
    saturation_weight * mean |u(s)|^2,  pi = tanh(u)                        stay where tanh still has a slope

The disturbance is a multiple of each sensor's own noise: where a signal is clean, a steep response to it costs nothing.
CAPS's second term, of temporal smoothness, is in the reward here (``action_rate``), where every algorithm sees it.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import DDPG, TD3

from balance_hil.training.gradient import batches, follow, frozen, log_losses, update_critics


class _SmoothActor:
    """Mix-in for ``TD3``: replaces ``train``. The rest, and the form of a saved model, is Stable-Baselines3's."""

    smoothness: dict[str, Any]  # the fields of SmoothnessConfig

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
        noise = torch.randn_like(observations) * observations.new_tensor(self.smoothness["observation_noise"])
        before_tanh = self.actor.mu[:-1](torch.cat([observations, observations + noise]))
        actions, disturbed = torch.tanh(before_tanh).chunk(2)
        with frozen(self.critic.parameters()):
            loss = (
                -self.critic.q1_forward(observations, actions).mean()
                + self.smoothness["spatial_weight"] * (actions - disturbed).square().sum(dim=1).mean()
                + self.smoothness["saturation_weight"] * before_tanh.square().sum(dim=1).mean()
            )
            self.actor.optimizer.zero_grad()
            loss.backward()
        self.actor.optimizer.step()
        return loss.detach()


class SmoothTD3(_SmoothActor, TD3):  # type: ignore[misc]
    """TD3 with the smooth actor loss."""


class SmoothDDPG(_SmoothActor, DDPG):  # type: ignore[misc]
    """DDPG with the smooth actor loss."""
