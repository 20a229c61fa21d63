"""What the compact engine must not run, it refuses by name; what is no model at all never makes it read out of bounds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from balance_hil.testing.synthetic_models import ModelBuilder

from .engine_check import RunCheck, run_engine

MODEL_INVALID, MODEL_NOT_INT8, UNSUPPORTED_OPERATOR = 13, 14, 15


@pytest.fixture(scope="module")
def run(engine_check: Path) -> RunCheck:
    return lambda *files: subprocess.run([engine_check, *files], capture_output=True, text=True)


def small(change: Callable[[ModelBuilder], Any] = lambda builder: None, **ends: list[int]) -> bytes:
    """A 4-3 dense layer (tensors 0: input, 1: weights, 2: bias, 3: output), changed before it is written."""
    builder = ModelBuilder()
    source = builder.tensor((1, 4), scale=0.1)
    builder.dense(source, np.ones((3, 4), np.int8), [0.1, 0.2, 0.3], (0.2, 0), np.zeros(3, np.int32))
    change(builder)
    return builder.build(ends.get("inputs", [0]), ends.get("outputs", [3]))


def set_tensor(number: int, **values: object) -> Callable[[ModelBuilder], None]:
    def change(builder: ModelBuilder) -> None:
        for name, value in values.items():
            setattr(builder.tensors[number], name, value)

    return change


def set_quant(number: int, **values: object) -> Callable[[ModelBuilder], None]:
    def change(builder: ModelBuilder) -> None:
        for name, value in values.items():
            setattr(builder.tensors[number].quantization, name, value)

    return change


def set_operator(**values: object) -> Callable[[ModelBuilder], None]:
    def change(builder: ModelBuilder) -> None:
        for name, value in values.items():
            setattr(builder.operators[0], name, value)

    return change


def set_option(name: str, value: int) -> Callable[[ModelBuilder], None]:
    return lambda builder: setattr(builder.operators[0].builtinOptions, name, value)


def add_exp(builder: ModelBuilder) -> None:
    builder.elementwise("EXP", 3, (0.1, 0))


REFUSED = {
    "float input": (small(set_tensor(0, type=schema.TensorType.FLOAT32)), MODEL_NOT_INT8, ""),
    "input without scale": (small(set_tensor(0, quantization=None)), MODEL_NOT_INT8, ""),
    "zero scale": (small(set_quant(0, scale=[0.0])), MODEL_NOT_INT8, ""),
    "infinite scale": (small(set_quant(3, scale=[float("inf")])), MODEL_NOT_INT8, ""),
    "NaN scale": (small(set_quant(0, scale=[float("nan")])), MODEL_NOT_INT8, ""),
    "zero point beyond int8": (small(set_quant(0, zeroPoint=[128])), MODEL_NOT_INT8, ""),
    "empty shape": (small(set_tensor(0, shape=[1, 0])), MODEL_INVALID, ""),
    "unknown batch": (small(set_tensor(0, shape=[-1, 4])), MODEL_INVALID, ""),
    "two inputs": (small(inputs=[0, 0]), MODEL_INVALID, ""),
    "output nobody computes": (small(lambda b: b.tensor((1, 3), 0.1), outputs=[4]), MODEL_INVALID, ""),
    "output is the input": (small(outputs=[0]), MODEL_INVALID, ""),
    "no operators": (small(lambda b: b.operators.clear()), MODEL_INVALID, ""),
    "unknown operator": (small(add_exp, outputs=[4]), UNSUPPORTED_OPERATOR, "unknown"),
    "two rows of input": (small(set_tensor(0, shape=[2, 4])), UNSUPPORTED_OPERATOR, "weights"),
    "weights of another size": (small(set_tensor(1, shape=[3, 5])), UNSUPPORTED_OPERATOR, "weights"),
    "weights not constant": (small(set_tensor(1, buffer=0)), UNSUPPORTED_OPERATOR, "weights"),
    "weights int4": (small(set_tensor(1, type=schema.TensorType.INT4)), UNSUPPORTED_OPERATOR, "weights"),
    "weights asymmetric": (small(set_quant(1, zeroPoint=[0, 1, 0])), UNSUPPORTED_OPERATOR, "weight scales"),
    "two scales for three rows": (small(set_quant(1, scale=[0.1, 0.2])), UNSUPPORTED_OPERATOR, "weight scales"),
    "scales by column": (small(set_quant(1, quantizedDimension=1)), UNSUPPORTED_OPERATOR, "weight scales"),
    "negative weight scale": (small(set_quant(1, scale=[0.1, -0.2, 0.3])), UNSUPPORTED_OPERATOR, "weight scales"),
    "shuffled weights": (small(set_option("weightsFormat", 1)), UNSUPPORTED_OPERATOR, "weights"),
    "fused tanh": (small(set_option("fusedActivationFunction", 4)), UNSUPPORTED_OPERATOR, "fused activation"),
    "bias of another size": (small(set_tensor(2, shape=[2])), UNSUPPORTED_OPERATOR, "bias"),
    "bias int64": (small(set_tensor(2, type=schema.TensorType.INT64)), UNSUPPORTED_OPERATOR, "bias"),
    "no weights": (small(set_operator(inputs=[0])), UNSUPPORTED_OPERATOR, "operands"),
    "reads its own output": (small(set_operator(inputs=[3, 1, 2])), UNSUPPORTED_OPERATOR, "operands"),
    "writes the input": (small(set_operator(outputs=[0])), UNSUPPORTED_OPERATOR, "operands"),
    "two outputs": (small(set_operator(outputs=[3, 3])), UNSUPPORTED_OPERATOR, "operands"),
    "tensor number out of range": (small(set_operator(inputs=[99, 1, 2])), UNSUPPORTED_OPERATOR, "operands"),
    "tanh to another scale": (
        small(lambda b: b.elementwise("TANH", 3, (1 / 64, 0)), outputs=[4]),
        UNSUPPORTED_OPERATOR,
        "operands",
    ),
    "relu6 that rescales": (small(lambda b: b.elementwise("RELU6", 3, (0.1, 0)), outputs=[4]), UNSUPPORTED_OPERATOR, "operands"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_status_and_a_reason(run: RunCheck, tmp_path: Path, case: str):
    model, status, reason = REFUSED[case]
    result = run_engine(run, model, np.zeros((1, 4), np.int8), tmp_path)
    assert not result.accepted
    assert f"status {status} " in result.message
    assert f"message {reason}\n" in result.message


def test_the_refused_operator_is_named_by_its_code_and_number(run: RunCheck, tmp_path: Path):
    result = run_engine(run, small(add_exp, outputs=[4]), np.zeros((1, 4), np.int8), tmp_path)
    assert f"detail {47 * 256 + 1} " in result.message


def test_a_plain_dense_layer_is_accepted(run: RunCheck, tmp_path: Path):
    assert run_engine(run, small(), np.zeros((1, 4), np.int8), tmp_path).accepted


def test_bytes_that_are_no_model_are_refused(run: RunCheck, tmp_path: Path):
    for garbage in (b"", b"\0", b"TFL3", b"\0\0\0\0TFL3", b"\x08\0\0\0TFL3", b"\xff" * 64, b"\x04\0\0\0TFL3" + b"\xff" * 60):
        assert not run_engine(run, garbage, np.zeros((1, 1), np.int8), tmp_path).accepted
