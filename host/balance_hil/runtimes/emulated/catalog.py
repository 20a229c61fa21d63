"""Which operators are emulated, and the rule of each by whose kernels compute it; ``operators`` has their code."""

from __future__ import annotations

from typing import NamedTuple


class Rules(NamedTuple):
    """In a few words, for the documentation: how TFLM and TensorFlow Lite's three sets of kernels compute an operator."""

    tflm: str
    reference: str
    builtin: str
    xnnpack: str


def _same(rule: str) -> Rules:
    return Rules(rule, rule, rule, rule)


_TWICE, _UP, _FLOAT32 = "twice, ties away from zero", "twice, ties up", "once, float32, ties to even"
_FIXED, _TABLE = "fixed point", "float32 table"
_LSTM = "gates twice, their products once, ties away from zero; fixed point of 16 bits"
_COPY = _same("copies")
_PIECES = f"{_UP}; from the last multiple of 8 channels on: ties away from zero"

OPERATORS: dict[str, Rules] = {
    "FULLY_CONNECTED": Rules(_TWICE, "once, float64, ties away from zero; TensorFlow 2.19: twice", _UP, _FLOAT32),
    "CONV_2D": Rules(_TWICE, _TWICE, f"{_UP}; grouped: ties away from zero", f"{_FLOAT32}; may drop its input"),
    "DEPTHWISE_CONV_2D": Rules(_TWICE, _TWICE, _PIECES, f"{_FLOAT32}; may drop its input"),
    "TRANSPOSE_CONV": Rules(_TWICE, _TWICE, _PIECES, _FLOAT32),
    "AVERAGE_POOL_2D": _same("integer mean, ties away from zero"),
    "MAX_POOL_2D": _same("largest value"),
    "MEAN": Rules(
        _TWICE,
        _TWICE,
        "over height and width with keep_dims: zero point rounded apart; else as reference",
        "once, float32, ties away from zero",
    ),
    "SOFTMAX": Rules(_FIXED, _FIXED, _TABLE, "as builtin"),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Rules(f"{_TWICE}; gates by a table with interpolation", _LSTM, _LSTM, _LSTM),
    "TANH": Rules(_FIXED, _TABLE, _TABLE, "float32 table, zero point before rounding"),
    "LOGISTIC": Rules(_FIXED, _TABLE, _TABLE, "float32 table, zero point before rounding"),
    "RELU": _same(_TWICE),
    "RELU6": Rules("clamps in the input's scale", _TWICE, _TWICE, _TWICE),
    "RELU_N1_TO_1": Rules("lacks it", _TWICE, _TWICE, _TWICE),
    "LEAKY_RELU": Rules(_TWICE, _TWICE, _TWICE, "multipliers of 8 bits"),
    "PRELU": _same(_TWICE),
    "ELU": Rules(_TABLE, "lacks it", _TABLE, "float32 table, zero point before rounding"),
    "HARD_SWISH": _same("fixed point of 16 bits"),
    "ADD": Rules(_TWICE, _TWICE, f"{_TWICE}; vector loop with wrapping int16", "21-bit multipliers, ties up"),
    "SUB": Rules(f"{_TWICE}; scale ratios in float32", _TWICE, _TWICE, "21-bit multipliers, ties up"),
    "MUL": Rules(_TWICE, _TWICE, f"{_TWICE}; vector loop with wrapping int16", _FLOAT32),
    "MAXIMUM": _same("compares raw values"),
    "MINIMUM": _same("compares raw values"),
    "QUANTIZE": Rules(_TWICE, _TWICE, f"{_UP} in the vector loop", "multiplier of 8 bits"),
    "DEQUANTIZE": Rules("float32", "float32", "float32, fused offset in the vector loop", "float32"),
    "SHAPE": _same("computes none"),
    "PACK": _COPY,
    "RESHAPE": _COPY,
    "SQUEEZE": _COPY,
    "EXPAND_DIMS": _COPY,
    "CONCATENATION": _COPY,
    "PAD": _COPY,
    "TRANSPOSE": _COPY,
    "STRIDED_SLICE": _COPY,
    "SPLIT": _COPY,
}

_UPPER = "once, multiplier of 16 bits, ties up"
_NARROW_AWAY, _NARROW_UP = "; 32-bit bias: twice, ties away from zero", "; 32-bit bias: twice, ties up"
_SIGMOIDS = "table of 256 sigmoids, interpolated"
_ENTRIES = "tables of 513 entries, interpolated"


def _desktop(tflm: str, reference: str, builtin: str) -> Rules:
    return Rules(tflm, reference, builtin, "as builtin")


# Of int16 activations, which XNNPACK leaves to the optimized kernels.
IN_INT16: dict[str, Rules] = {
    "FULLY_CONNECTED": _desktop(
        f"{_UPPER}{_NARROW_AWAY}", "once, float64, ties away from zero", f"once, float64, ties away from zero{_NARROW_UP}"
    ),
    "CONV_2D": _desktop(
        f"{_UPPER}{_NARROW_AWAY}", f"{_UPPER}{_NARROW_AWAY}", f"{_UPPER}{_NARROW_UP}, grouped: ties away from zero"
    ),
    "DEPTHWISE_CONV_2D": _same(_UPPER),
    "TRANSPOSE_CONV": _desktop(
        _UPPER, f"{_UPPER}{_NARROW_AWAY}", f"{_UPPER}{_NARROW_UP}, from the last multiple of 8 channels on: ties away from zero"
    ),
    "AVERAGE_POOL_2D": OPERATORS["AVERAGE_POOL_2D"],
    "MAX_POOL_2D": OPERATORS["MAX_POOL_2D"],
    "MEAN": _same(_TWICE),
    "SOFTMAX": _desktop(*(f"{_ENTRIES}, made in {real}" for real in ("float32", "float64", "float64"))),
    "TANH": _desktop(_SIGMOIDS, _SIGMOIDS, f"{_SIGMOIDS}; input in 2^-12 or 2^-11: fixed point of 16 bits"),
    "LOGISTIC": _desktop(_SIGMOIDS, _SIGMOIDS, f"{_SIGMOIDS}; input in 2^-12: fixed point of 16 bits"),
    "RELU": _same(_TWICE),
    "RELU6": OPERATORS["RELU6"],
    "LEAKY_RELU": _same(_TWICE),
    "PRELU": _same(_TWICE),
    "ADD": _desktop(_TWICE, _TWICE, f"{_TWICE}; vector loop: inputs once"),
    "SUB": _desktop(f"{_TWICE}; scale ratios in float32", _TWICE, _TWICE),
    "MUL": _same(_TWICE),
    "MAXIMUM": OPERATORS["MAXIMUM"],
    "MINIMUM": OPERATORS["MINIMUM"],
    "QUANTIZE": _same(_TWICE),
    "SHAPE": OPERATORS["SHAPE"],
    **{name: rules for name, rules in OPERATORS.items() if rules == _COPY},
}
