"""Parts of a gradient step of an actor and critics, with few calls: on tensors this small the calls take most of the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from balance_hil.envs.balance.symmetry import mirror_rows


def batches(model: Any, count: int, batch_size: int) -> Iterator[Any]:
    """``count`` batches of rows of the replay buffer, drawn in one call; where the model has mirrors, as seen in them."""
    rows = model.replay_buffer.sample(count * batch_size, env=model._vec_normalize_env)
    if mirror := getattr(model, "mirror", None):
        rows = rows._replace(
            observations=mirror_rows(rows.observations, mirror, "observation"),
            next_observations=mirror_rows(rows.next_observations, mirror, "observation"),
            actions=mirror_rows(rows.actions, mirror, "action"),
        )
    for parts in zip(*(part.split(batch_size) for part in rows), strict=True):
        yield type(rows)(*parts)


def update_critics(model: Any, data: Any, next_values: torch.Tensor) -> torch.Tensor:
    """One step of all critics toward reward plus discounted ``next_values``, float32 [batch, 1]; returns their loss."""
    targets = data.rewards + (1 - data.dones) * data.discounts * next_values
    values = torch.cat(model.critic(data.observations, data.actions), dim=1)
    loss = functional.mse_loss(values, targets.expand_as(values)) * values.shape[1]  # the sum over the critics
    model.critic.optimizer.zero_grad()
    loss.backward()
    model.critic.optimizer.step()
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
