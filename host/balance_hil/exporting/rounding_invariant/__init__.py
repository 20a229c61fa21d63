"""Rounding-proof export: an int8 model that gives the same bits on every runtime. See ``docs/rounding-proof.md``."""

from balance_hil.exporting.rounding_invariant.conditions import Proof, prove
from balance_hil.exporting.rounding_invariant.make import RoundingProof, make_rounding_proof

__all__ = ["Proof", "RoundingProof", "make_rounding_proof", "prove"]
