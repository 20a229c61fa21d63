"""Policies as their makers save them, opened without running the code that is pickled in them."""

from balance_hil.checkpoint.actor import ACTIVATIONS, Actor, Checkpoint, Layer
from balance_hil.checkpoint.sb3 import ALGORITHMS, find_checkpoint, open_checkpoint, read_checkpoint
from balance_hil.checkpoint.sb3_reference import import_sb3, keep_tensorflow_out
from balance_hil.checkpoint.spaces import Space, space_of
from balance_hil.checkpoint.vecnormalize import Surroundings, read_surroundings, read_vecnormalize

__all__ = [
    "ACTIVATIONS",
    "ALGORITHMS",
    "Actor",
    "Checkpoint",
    "Layer",
    "Space",
    "Surroundings",
    "find_checkpoint",
    "import_sb3",
    "keep_tensorflow_out",
    "open_checkpoint",
    "read_checkpoint",
    "read_surroundings",
    "read_vecnormalize",
    "space_of",
]
