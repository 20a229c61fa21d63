"""Rounding-invariant export: an int8 model that gives the same bits on every runtime. See ``docs/rounding-invariant.md``."""

from balance_hil.exporting.rounding_invariant.conditions import Proof, prove
from balance_hil.exporting.rounding_invariant.make import RoundingInvariant, make_rounding_invariant

__all__ = ["Proof", "RoundingInvariant", "make_rounding_invariant", "prove"]
