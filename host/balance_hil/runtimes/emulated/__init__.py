"""Exact numpy emulators of the int8 arithmetic of TFLM and of TensorFlow Lite's kernels."""

from __future__ import annotations

from balance_hil.runtimes.emulated.interpreter import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import KNOWN_VARIANTS, Kernels, Rounding, Variant, family

__all__ = ["KNOWN_VARIANTS", "EmulatedRuntime", "Kernels", "Rounding", "Variant", "family"]
