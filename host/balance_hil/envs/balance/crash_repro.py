"""A failed episode as a repro: its start and every action since, to run it again bit for bit."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance.task import N_ACT
from balance_hil.errors import RecordingError, UsageError
from balance_hil.files import parse_json, read_npz

MAX_STEPS = 8192  # a longer episode is not kept; those of evaluation have 6000
_FORMAT = 1
_TEXT, _ACTIONS = "crash_repro", "crash_repro_actions"


@dataclass(frozen=True)
class CrashRepro:
    """One episode up to the step that went wrong."""

    environment: str
    made_with: Mapping[str, Any]  # options of the batch, which decide about its model
    options: Mapping[str, Any]  # that the episode was sampled from
    reset_options: Mapping[str, Any]
    generator: Mapping[str, Any]  # state of the random numbers before the reset
    actions: NDArray[np.float32] = field(repr=False)  # [steps, n_act]; the last one is that of the step that went wrong
    message: str = ""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What ``numpy.savez`` takes; ``load`` is the inverse."""
        facts = {key: value for key, value in vars(self).items() if key != "actions"}
        return {_TEXT: np.array(json.dumps({"format": _FORMAT, **facts})), _ACTIONS: self.actions}


class EpisodeLog:
    """The latest actions of ``n`` simulations, and where the random numbers of each stood when its episode began."""

    def __init__(self, n: int) -> None:
        # One entry per call keeps a step cheap; an episode's own actions are picked out when they are asked for.
        self._calls: deque[tuple[NDArray[np.int32], NDArray[np.float32]]] = deque(maxlen=MAX_STEPS)
        self._count = 0  # calls so far
        self._starts: list[tuple[int, dict[str, Any], Mapping[str, Any]] | None] = [None] * n

    def start(self, index: int, rng: np.random.Generator, reset_options: Mapping[str, Any] | None) -> None:
        """An episode is about to be reset."""
        self._starts[index] = (self._count, generator_state(rng), dict(reset_options or {}))

    def add(self, ids: NDArray[np.int32], actions: NDArray[np.float32]) -> None:
        """One control step of the episodes ``ids``."""
        self._calls.append((ids, actions.copy()))
        self._count += 1

    def episode(self, index: int) -> tuple[NDArray[np.float32], dict[str, Any], Mapping[str, Any]] | None:
        """Actions so far, generator state and reset options; None for one too long to be kept or not begun."""
        start = self._starts[index]
        if start is None or self._count - start[0] > len(self._calls):
            return None
        calls = list(self._calls)[len(self._calls) - (self._count - start[0]) :]
        rows = [actions[ids == index] for ids, actions in calls]
        return np.concatenate(rows) if rows else np.empty((0, N_ACT), np.float32), start[1], start[2]


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """What ``restored_generator`` needs to go on from here, children included; plain JSON types."""
    seeds = rng.bit_generator.seed_seq
    assert isinstance(seeds, np.random.SeedSequence)
    return {
        "state": rng.bit_generator.state,
        "entropy": seeds.entropy,
        "spawn_key": list(seeds.spawn_key),
        "n_children_spawned": seeds.n_children_spawned,
    }


def restored_generator(saved: Mapping[str, Any]) -> np.random.Generator:
    """The generator as it was."""
    seeds = np.random.SeedSequence(
        saved["entropy"], spawn_key=tuple(saved["spawn_key"]), n_children_spawned=saved["n_children_spawned"]
    )
    bits = np.random.PCG64(seeds)
    bits.state = saved["state"]
    return np.random.Generator(bits)


def load(path: Path) -> CrashRepro:
    """Reads what ``CrashRepro.to_arrays`` wrote.

    Raises:
        RecordingError: no such file, or not one of this program.
        UsageError: the file holds no episode: the weights were at fault, not the simulation.
    """
    hint = "it is the diverged.npz in the folder of a training or an evaluation, in runs/"
    try:
        arrays = read_npz(path)
        if _TEXT not in arrays:
            raise UsageError(f"{path} contains no episode to run again: the weights diverged, not the simulation", "train again")
        facts, actions = parse_json(str(arrays[_TEXT])), arrays[_ACTIONS]
        if facts.pop("format") != _FORMAT:
            raise KeyError("format")
        return CrashRepro(actions=actions, **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        if isinstance(exc, UsageError):
            raise
        raise RecordingError(f"{path} is not an episode that can be run again: {exc}", hint) from exc
