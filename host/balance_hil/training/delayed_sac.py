"""SAC that updates its actor less often than its critics, as TD3 does: most of what a gradient step costs is the actor's part."""

from __future__ import annotations

import torch
from stable_baselines3 import SAC

from balance_hil.training.gradient import batches, follow, frozen, log_losses, update_critics


class DelayedSAC(SAC):  # type: ignore[misc]
    """Replaces ``train``; with ``policy_delay`` 1 it computes what ``SAC`` does. A saved model is Stable-Baselines3's."""

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
            loss = -(self.log_ent_coef * (log_prob.detach() + self.target_entropy)).mean()
            self.ent_coef_optimizer.zero_grad()
            loss.backward()
            self.ent_coef_optimizer.step()

    def _next_values(self, observations: torch.Tensor, entropy_weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            actions, log_prob = self.actor.action_log_prob(observations)
            values = torch.cat(self.critic_target(observations, actions), dim=1).amin(dim=1, keepdim=True)
            return values - entropy_weight * log_prob.reshape(-1, 1)

    def _update_actor(self, observations: torch.Tensor, actions: torch.Tensor, entropy_cost: torch.Tensor) -> torch.Tensor:
        with frozen(self.critic.parameters()):
            values = torch.cat(self.critic(observations, actions), dim=1).amin(dim=1)
            loss: torch.Tensor = (entropy_cost - values).mean()
            self.actor.optimizer.zero_grad()
            loss.backward()
        self.actor.optimizer.step()
        return loss.detach()
