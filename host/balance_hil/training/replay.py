"""The replay buffer of an off-policy algorithm as a file: plain arrays, nothing pickled."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from balance_hil.errors import CheckpointError

_ROWS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")  # each [rows, n_envs, ...]
_HINT = "resume from the folder in models/: its policy goes on with an empty buffer"


def replay_bytes(model: Any) -> bytes:
    """The buffer of a Stable-Baselines3 model as the bytes of an ``.npz`` file; empty for an algorithm without one."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return b""
    rows = buffer.buffer_size if buffer.full else buffer.pos
    packed = io.BytesIO()
    np.savez(packed, pos=buffer.pos, full=buffer.full, **{name: getattr(buffer, name)[:rows] for name in _ROWS})
    return packed.getvalue()


def restore_replay(model: Any, packed: bytes) -> None:
    """Fills the buffer of a new model.

    The episodes that were under way are over: they do not continue in the rows to come.

    Raises:
        CheckpointError: the bytes are no such file, or of a buffer of another shape.
    """
    buffer = model.replay_buffer
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ROWS}
            pos, full = int(stored["pos"]), bool(stored["full"])
        rows = buffer.buffer_size if full else pos
        for name, values in arrays.items():
            if len(values) != rows:
                raise ValueError(f"{name} has {len(values)} rows, not {rows}")
            getattr(buffer, name)[:rows] = values
    except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as exc:
        raise CheckpointError(f"the replay buffer cannot be read: {exc}", _HINT) from exc
    buffer.pos, buffer.full = pos, full
    if rows:
        latest = (pos - 1) % buffer.buffer_size
        buffer.timeouts[latest] = np.maximum(buffer.timeouts[latest], 1.0 - buffer.dones[latest])
