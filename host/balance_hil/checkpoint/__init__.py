"""Policies as their makers save them, opened without running the code that is pickled in them."""

from balance_hil.checkpoint.actor import Actor, Checkpoint, Layer
from balance_hil.checkpoint.sb3 import find_checkpoint, open_checkpoint, read_checkpoint
from balance_hil.checkpoint.sb3_reference import import_sb3, keep_tensorflow_out
from balance_hil.checkpoint.vecnormalize import read_surroundings

__all__ = [
    "Actor",
    "Checkpoint",
    "Layer",
    "find_checkpoint",
    "import_sb3",
    "keep_tensorflow_out",
    "open_checkpoint",
    "read_checkpoint",
    "read_surroundings",
]
