"""A2C that is pulled toward a policy without a preferred side or direction.

A small preference for one side is a steady yaw rate, and once the robot spins the reward is flat: one of the first seeds ended up
spinning at 44 rad/s. The loss gets the mirror loss of "On Learning Symmetric Locomotion" (Abdolhosseini, Ling, Xie, Peng, van de
Panne, MIG 2019): ``mirror_weight * mean |pi(s) - mirrored(pi(mirrored(s)))|^2``, of the mean actions, each row in one of the
images of ``mirror``.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import A2C
from torch.nn import functional

from balance_hil.envs.balance.symmetry import mirror_rows


class SymmetricA2C(A2C):  # type: ignore[misc]
    """Replaces ``train``; with a ``mirror_weight`` of 0 it computes what ``A2C`` does. A saved model is Stable-Baselines3's."""

    mirror_weight = 0.0
    mirror: dict[str, list[Any]]  # what ``mirror_of`` returns

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
        mirror_loss = self._mirror_loss(data.observations) if self.mirror_weight else torch.zeros(())
        loss = (
            policy_loss
            - self.ent_coef * entropy.mean()
            + self.vf_coef * value_loss
            + self.mirror_weight * mirror_loss.to(self.device)
        )
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in (("policy", policy_loss), ("value", value_loss), ("mirror", mirror_loss)):
            self.logger.record(f"train/{name}_loss", value.item())

    def _mirror_loss(self, observations: torch.Tensor) -> torch.Tensor:
        images = mirror_rows(observations, self.mirror, "observation")
        actions, others = (
            self.policy.action_net(self.policy.mlp_extractor.forward_actor(rows)) for rows in (observations, images)
        )
        return (actions - mirror_rows(others, self.mirror, "action")).square().sum(dim=1).mean()
