"""Operators that TensorFlow's converter leaves in float."""

import numpy as np
import pytest

from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import ModelBuilder
from balance_hil.tflite.edit import elementwise_in_int8
from balance_hil.tflite.graph import read_graph

CODES = np.arange(-128, 128).astype(np.int8)[:, np.newaxis]


def in_float(name, *, twice=False):
    """DEQUANTIZE, the operator, QUANTIZE; ``twice`` reads the float input a second time."""
    build = ModelBuilder()
    source = build.tensor((1, 1), 0.04, 3)
    floats = build.elementwise("DEQUANTIZE", source, kind="FLOAT32")
    quantized = build.elementwise("QUANTIZE", build.elementwise(name, floats, kind="FLOAT32"), (0.035, -98))
    if twice:
        again = build.elementwise("QUANTIZE", floats, (0.04, 3))
        quantized = build.operator("ADD", (quantized, again), build.tensor((1, 1), 0.08, -40))
    return build.build(source, quantized)


@pytest.mark.parametrize("twice", [False, True])
def test_elu_becomes_one_table_of_int8(twice):
    model = in_float("ELU", twice=twice)
    made = elementwise_in_int8(model)
    names = [operator.name for operator in read_graph(made).operators]
    assert names == (["DEQUANTIZE", "ELU", "QUANTIZE", "ADD"] if twice else ["ELU"])
    assert all(read_graph(made).output_of(o).type == "INT8" for o in read_graph(made).operators if o.name == "ELU")
    before, after = (TflmRuntime(each).infer_raw_batch(CODES).astype(int) for each in (model, made))
    assert np.abs(before - after).max() <= 1
    if not twice:
        x = 0.04 * (CODES.astype(float) - 3)
        exact = np.where(x > 0, x, np.expm1(x)) / 0.035 - 98
        assert np.abs(after - np.clip(exact, -128, 127)).max() <= 0.51


def test_what_is_int8_already_or_another_operator_stays():
    tanh = in_float("TANH")
    assert elementwise_in_int8(tanh) == tanh
    whole = elementwise_in_int8(in_float("ELU"))
    assert elementwise_in_int8(whole) == whole
