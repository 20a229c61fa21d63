"""Pictures of the plant: the recorded actions, replayed from the seed, because a recording holds no state of the plant."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.environment import open_for
from balance_hil.errors import HarnessError, UsageError
from balance_hil.recording import Recording

FRAMES = 8
WIDTH = 320  # pixels, at most
MAX_STEPS = 20_000  # of an episode: its physics is simulated again
LAST_S = 2.0  # of a failed episode
MOST_APART = 0.05  # of a signal's range: beyond that the replay is another episode


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Frames of one episode."""

    title: str
    frames: list[tuple[float, bytes]]  # time within the episode, PNG


def film_strips(recordings: Mapping[str, Recording], wanted: bool | None) -> dict[str, Strip | HarnessError]:
    """Pictures of each recording, or why there are none; nothing if ``wanted`` is False.

    Args:
        recordings: by label.
        wanted: None: unless the recording names a module, which would be imported.
    """
    strips: dict[str, Strip | HarnessError] = {}
    for label, recording in recordings.items() if wanted is not False else ():
        try:
            if wanted is None and ":" in recording.spec.environment:
                raise UsageError(f"{recording.spec.environment} names a module of its own", "to import it: --frames")
            strips[label] = film_strip(recording)
        except HarnessError as exc:
            strips[label] = exc
    return strips


def film_strip(recording: Recording) -> Strip:
    """Frames of the first failed episode's last seconds, else over the first episode.

    Raises:
        UsageError: there is nothing to replay, or the replay departs from the recording at once.
        HarnessError: the environment cannot be opened or cannot draw here.
    """
    failed = [int(episode["episode"]) for episode in recording.episodes if episode.get("failed")]
    episode = failed[0] if failed else 0
    rows = np.flatnonzero(recording.episode == episode)
    seeds = recording.meta.get("seeds")
    if not len(rows) or not isinstance(seeds, list) or episode >= len(seeds):
        raise UsageError("the recording holds no step with its seed", "record a run: hil run ppo --board native")
    if recording.t_s[rows[0]] > 0:
        raise UsageError("the episode's beginning is not in the recording", "make the page of the whole recording")
    if len(rows) > MAX_STEPS:
        raise UsageError(
            f"the episode has {len(rows):,} steps, at most {MAX_STEPS:,} are simulated again", "record a shorter one"
        )
    first = max(0, len(rows) - round(LAST_S / recording.spec.control_period_s)) if failed else 0
    wanted = set(np.linspace(first, len(rows) - 1, FRAMES).round().astype(int).tolist())
    frames: list[tuple[float, bytes]] = []
    spread = np.ptp(recording.observation, axis=0) + 1e-9
    apart = 0.0
    try:
        with open_for(recording.spec, None, recording.meta.get("options") or None, render_mode="rgb_array") as env:
            observation = env.reset(int(seeds[episode]))
            for step, row in enumerate(rows):
                now = float(np.max(np.abs(observation - recording.observation[row]) / spread))
                if now > MOST_APART:
                    break
                apart = max(apart, now)
                if step in wanted:
                    frames.append((float(recording.t_s[row]), _png(_small(env.render()))))
                result = env.step(*_recorded_action(recording, int(row)))
                observation = result.observation
                if result.terminated:
                    break
    except HarnessError:
        raise
    except Exception as exc:  # an environment's own, of any kind
        raise UsageError(
            f"{recording.spec.environment} draws no frames here: {type(exc).__name__}: {exc}", "leave them out: --no-frames"
        ) from exc
    if not frames:
        raise UsageError("a replay of the recorded actions departs from the recording at once", "the versions may differ")
    how = "equal to the recording bit for bit" if apart == 0 else f"observations within {apart:.2%} of the recorded ones"
    short = "" if len(frames) == len(wanted) else "; it departs from the recording after the last picture"
    return Strip(title=f"Episode {episode + 1}, replayed from its seed and actions: {how}{short}", frames=frames)


def _recorded_action(recording: Recording, row: int) -> tuple[Any, ...]:
    """Arguments of ``Environment.step``: each action takes effect before the substep in which it did."""
    held, substep = bool(recording.held[row]), int(recording.substep[row])
    if not substep:
        return (None if held else recording.spec.clip(recording.action[row]),)
    due = {at: recording.spec.clip(np.asarray(action, np.float32)) for at, action in recording.earlier.get(row, [])}
    due[substep] = recording.spec.clip(recording.action[row])
    begun = itertools.count(1)
    return None, lambda: due.get(next(begun))


def _small(frame: Any) -> NDArray[np.uint8]:
    """At most WIDTH wide, uint8 [height, width, 3]."""
    if frame is None:
        raise UsageError("the environment returns no frame", "leave them out: --no-frames")
    pixels = np.asarray(frame, np.uint8)
    factor = -(-pixels.shape[1] // WIDTH)
    height, width = pixels.shape[0] // factor * factor, pixels.shape[1] // factor * factor
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return np.asarray(blocks.mean(axis=(1, 3)), np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
