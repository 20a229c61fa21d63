"""The family of int8 arithmetics: what distinguishes one runtime's kernels from another's, and the names of known runtimes.

A ``Variant`` is a point in that family. ``KNOWN_VARIANTS`` are runtimes that exist; ``family`` is every combination, for a board
that is none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from itertools import product


class Rounding(Enum):
    """How FULLY_CONNECTED turns an int32 accumulator into an int8 value; ``of_channels`` has the convolutions' rules.

    The value is its description.
    """

    DOUBLE = "rounds twice, ties away from zero"  # TFLM, CMSIS-NN, ESP-NN
    SINGLE = "rounds once, ties up"  # TFLITE_SINGLE_ROUNDING, CMSIS_NN_USE_SINGLE_ROUNDING
    RUY_X86 = "rounds twice, ties up"
    FLOAT64 = "multiplies in float64, ties away from zero"
    FLOAT32 = "multiplies in float32, ties to even"  # XNNPACK
    FLOORED = "rounds the product down, then ties away from zero"  # VQDMULH in place of VQRDMULH
    TRUNCATED = "multiplies in float32 and truncates"  # TinyEngine
    REDUCED = "multiplies by the upper 16 bits of the multiplier, ties up"  # sums of 64 bits, which int16 activations have


class Kernels(Enum):
    """Whose kernels compute everything but the requantization of FULLY_CONNECTED and of convolutions."""

    TFLM = "TensorFlow Lite Micro (tanh and logistic in fixed point)"
    REFERENCE = "TensorFlow Lite reference (tanh and logistic from a float32 table)"
    OPTIMIZED = "TensorFlow Lite optimized, on x86 (tanh and logistic from a float32 table)"
    XNNPACK = "XNNPACK (tanh and logistic from a float32 table, reciprocal scale)"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One int8 arithmetic."""

    name: str  # short and unique: "tflm", "xnnpack"
    title: str  # for display, completes "this board computes like …"
    rounding: Rounding
    kernels: Kernels
    float64_product: bool = False  # per-tensor FULLY_CONNECTED forms input scale × weight scale in float64, not in float32
    first_scale_only: bool = False  # FULLY_CONNECTED applies the first channel's weight scale to every channel
    floored_blocks: bool = False  # ESP-NN without its nudge: 1 x 1 convolutions are FLOORED in whole blocks of 8 pixels
    advice: str = ""  # what to do about it, "" where nothing is wrong


_LANES = 8  # channels that the optimized kernels for x86 take at a time where ruy takes no part

TFLM = Variant(
    name="tflm",
    title="TensorFlow Lite Micro since October 2026, CMSIS-NN or ESP-NN (double rounding)",
    rounding=Rounding.DOUBLE,
    kernels=Kernels.TFLM,
    float64_product=True,
)
TFLM_FLOAT32_PRODUCT = Variant(
    name="tflm-float32-product",
    title="TensorFlow Lite Micro before October 2026, CMSIS-NN or ESP-NN (double rounding)",
    rounding=Rounding.DOUBLE,
    kernels=Kernels.TFLM,
)
TFLM_SINGLE_ROUNDING = Variant(
    name="tflm-single-rounding",
    title="TensorFlow Lite Micro built with TFLITE_SINGLE_ROUNDING or CMSIS_NN_USE_SINGLE_ROUNDING",
    rounding=Rounding.SINGLE,
    kernels=Kernels.TFLM,
    float64_product=True,
    advice="build the firmware without TFLITE_SINGLE_ROUNDING and CMSIS_NN_USE_SINGLE_ROUNDING",
)
TFLM_FIRST_SCALE = Variant(
    name="tflm-first-scale",
    title="TensorFlow Lite Micro older than May 2024: it applies the first channel's weight scale to every channel",
    rounding=Rounding.DOUBLE,
    kernels=Kernels.TFLM,
    first_scale_only=True,
    advice="update the library (September 2024 or later), or export without channel scales: hil export --per-tensor",
)
XNNPACK = Variant(
    name="xnnpack",
    title="TensorFlow Lite's XNNPACK delegate, the desktop default",
    rounding=Rounding.FLOAT32,
    kernels=Kernels.XNNPACK,
)
BUILTIN = Variant(
    name="builtin",
    title="TensorFlow Lite's optimized kernels on x86 (ruy), without delegates",
    rounding=Rounding.RUY_X86,
    kernels=Kernels.OPTIMIZED,
)
REFERENCE = Variant(
    name="reference",
    title="TensorFlow Lite's reference kernels since April 2025",
    rounding=Rounding.FLOAT64,
    kernels=Kernels.REFERENCE,
)
REFERENCE_TF_2_19 = Variant(
    name="reference-tf2.19",
    title="TensorFlow Lite's reference kernels up to TensorFlow 2.19",
    rounding=Rounding.DOUBLE,
    kernels=Kernels.REFERENCE,
)
# Read in ESP-NN d45b843 (assembly for the ESP32-S3); not run: no such processor here.
ESP_NN_SKIP_NUDGE = Variant(
    name="esp-nn-skip-nudge",
    title="ESP-NN on an ESP32-S3 built with CONFIG_NN_SKIP_NUDGE (1 x 1 convolutions round the product down)",
    rounding=Rounding.DOUBLE,
    kernels=Kernels.TFLM,
    float64_product=True,
    floored_blocks=True,
    advice="build the firmware without CONFIG_NN_SKIP_NUDGE",
)
# Kernels of TinyEngine 47bb283, and its code generator, which makes FULLY_CONNECTED a 1 x 1 convolution.
TINYENGINE = Variant(
    name="tinyengine",
    title="TinyEngine with float requantization (it truncates, and ignores fused activations)",
    rounding=Rounding.TRUNCATED,
    kernels=Kernels.TFLM,
    advice="generate the code without float requantization: its integer kernels are those of CMSIS-NN",
)

KNOWN_VARIANTS = (
    TFLM,
    TFLM_FLOAT32_PRODUCT,
    TFLM_SINGLE_ROUNDING,
    TFLM_FIRST_SCALE,
    XNNPACK,
    BUILTIN,
    REFERENCE,
    REFERENCE_TF_2_19,
    ESP_NN_SKIP_NUDGE,
    TINYENGINE,
)


def of_channels(rounding: Rounding, operator: str, groups: int, channels: int) -> tuple[tuple[slice, Rounding], ...]:
    """How kernels that round FULLY_CONNECTED by ``rounding`` round the output channels of a convolution.

    Args:
        rounding: of FULLY_CONNECTED.
        operator: CONV_2D, DEPTHWISE_CONV_2D or TRANSPOSE_CONV.
        groups: of CONV_2D.
        channels: of the output.
    """
    every = slice(0, channels)
    if rounding is Rounding.FLOAT64:  # those kernels multiply in float64 in FULLY_CONNECTED only
        return ((every, Rounding.DOUBLE),)
    if rounding is not Rounding.RUY_X86:
        return ((every, rounding),)
    if operator == "CONV_2D":  # groups are left to the reference kernel
        return ((every, rounding if groups == 1 else Rounding.DOUBLE),)
    in_vectors = channels // _LANES * _LANES
    parts = ((slice(0, in_vectors), rounding), (slice(in_vectors, channels), Rounding.DOUBLE))
    return tuple((part, rule) for part, rule in parts if part.start < part.stop)


def of_int16(variant: Variant, wide: bool, float64: bool = True) -> Variant:
    """``variant`` as its kernels compute a layer of weights of int16 activations.

    XNNPACK takes no operator in int16: the optimized kernels compute them.

    Args:
        variant: of int8.
        wide: in sums of 64 bits.
        float64: the desktop kernels multiply those in float64, as they do in FULLY_CONNECTED.
    """
    rounding = Rounding.RUY_X86 if variant.kernels is Kernels.XNNPACK else variant.rounding
    if wide:
        by_float = float64 and rounding in (Rounding.RUY_X86, Rounding.FLOAT64)
        rounding = Rounding.FLOAT64 if by_float else Rounding.REDUCED
    return replace(variant, rounding=rounding, kernels=_INT16_KERNELS.get(variant.kernels, variant.kernels))


_INT16_KERNELS = {Kernels.XNNPACK: Kernels.OPTIMIZED}


def family() -> tuple[Variant, ...]:
    """Every variant that the emulator can be: the known ones first, then all other combinations of the rules."""
    known = {_rules(variant) for variant in KNOWN_VARIANTS}
    others = (
        Variant(
            name="-".join([rounding.name.lower(), kernels.name.lower(), *_flags(wide, first)]).replace("_", "-"),
            title=f"an unlisted combination: it {rounding.value}; other kernels as {kernels.value}",
            rounding=rounding,
            kernels=kernels,
            float64_product=wide,
            first_scale_only=first,
        )
        for rounding, kernels, wide, first in product(Rounding, Kernels, (False, True), (False, True))
        if rounding is not Rounding.REDUCED  # no rounding of int8
        # These form the product in their own way: the flag would make a second variant of the same arithmetic.
        if not (wide and rounding in (Rounding.FLOAT64, Rounding.FLOAT32, Rounding.TRUNCATED))
    )
    return KNOWN_VARIANTS + tuple(variant for variant in others if _rules(variant) not in known)


def _rules(variant: Variant) -> tuple[object, ...]:
    return variant.rounding, variant.kernels, variant.float64_product, variant.first_scale_only, variant.floored_blocks


def _flags(float64_product: bool, first_scale_only: bool) -> list[str]:
    return ["wide"] * float64_product + ["first-scale"] * first_scale_only
