"""Which operators XNNPACK takes over; the others run on the optimized built-in kernels."""

from __future__ import annotations

import dataclasses

import numpy as np

from balance_hil.quantize import QuantParams
from balance_hil.runtimes.emulated.rules import Kernels, Variant

# Bounds on the ratios of scales that xnnpack_delegate.cc checks; the upper ones are exclusive but for QUANTIZE.
_ADD_RATIOS = (1 / 1024, 256.0)
_MUL_RATIOS = (1 / 65536, 256.0)
_QUANTIZE_RATIOS = (1 / 256, 128.0)


def computing_variant(variant: Variant, operator: str, sources: list[QuantParams], target: QuantParams) -> Variant:
    """``variant``, or its fallback to the optimized kernels for an int8 operator that XNNPACK does not take."""
    if variant.kernels is not Kernels.XNNPACK or _taken(
        operator, [np.float32(s.scale) for s in sources], np.float32(target.scale)
    ):
        return variant
    return dataclasses.replace(variant, kernels=Kernels.OPTIMIZED)


def _taken(operator: str, sources: list[np.float32], target: np.float32) -> bool:
    if operator == "ADD":
        return all(_ADD_RATIOS[0] <= float(s / target) < _ADD_RATIOS[1] for s in sources)
    if operator == "MUL":
        return _MUL_RATIOS[0] <= float(sources[0] * sources[1] / target) < _MUL_RATIOS[1]
    if operator == "QUANTIZE":
        return _QUANTIZE_RATIOS[0] <= float(sources[0] / target) <= _QUANTIZE_RATIOS[1]
    return operator not in ("RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH")
