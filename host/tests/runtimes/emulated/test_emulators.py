"""The emulators against the real runtimes, layer by layer: a small slice of hil verify --emulators."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil.errors import HarnessError, UnsupportedOperatorError
from balance_hil.runtimes.emulated import KNOWN_VARIANTS, EmulatedRuntime, Variant, compiled, family, interpreter
from balance_hil.runtimes.emulated.rules import BUILTIN, TFLM, TFLM_FIRST_SCALE
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import ModelBuilder, actor, random_policy
from balance_hil.testing.verify_emulators import LITERT_RUNTIMES, agreement, random_inputs
from balance_hil.tflite.codec import edit
from balance_hil.tflite.graph import read_graph

EVERY_RUNTIME = pytest.mark.parametrize("reference", LITERT_RUNTIMES, ids=lambda s: s.name)
ACTIVATIONS = ("TANH", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH")


@EVERY_RUNTIME
@pytest.mark.parametrize("per_channel", [True, False], ids=["per-channel", "per-tensor"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_the_runtime_on_an_actor(reference, activation, per_channel):
    model = actor((6, 24, 17, 2), activation, per_channel=per_channel, seed=3)
    result = agreement(reference.make(model), EmulatedRuntime(model, reference.variant), random_inputs(600, 6, 0))
    assert (result.differing_outputs, result.differing_values) == (0, 0)
    assert result.values >= 600 * (24 + 17 + 2)


def _assert_equal(reference, model, inputs):
    outputs = EmulatedRuntime(model, reference.variant).infer_raw_batch(inputs)
    assert np.array_equal(reference.make(model).infer_raw_batch(inputs), outputs)


def _quant(rng):
    return float(np.exp(rng.uniform(np.log(0.002), np.log(0.5)))), int(rng.integers(-128, 128))


def _unary(name, rng):
    """The operator alone on all 256 values."""
    build = ModelBuilder()
    source = _quant(rng)
    target = {"TANH": (1 / 128, 0), "LOGISTIC": (1 / 256, -128)}.get(name) or _quant(rng)
    if name == "HARD_SWISH":
        target = (source[0] * rng.uniform(0.01, 1.5), target[1])  # kernels accept no more
    x, y = build.tensor((1, 256), *source), build.tensor((1, 256), *target)
    return build.build(x, build.operator(name, (x,), y)), np.arange(-128, 128, dtype=np.int8)[np.newaxis]


def _binary(name, rng, other):
    """The operator on the input and its tanh, or on the input and a constant; widths that leave rests in vector loops."""
    build = ModelBuilder()
    width = int(rng.integers(1, 50))
    x = build.tensor((1, width), *_quant(rng))
    if other == "computed":
        y = build.operator("TANH", (x,), build.tensor((1, width), 1 / 128, 0))
    else:
        shape = {"row": (1, width), "vector": (width,), "number": (1, 1)}[other]
        y = build.tensor(shape, *_quant(rng), data=rng.integers(-128, 128, shape).astype(np.int8))
    operands = (x, y) if rng.random() < 0.5 else (y, x)
    activation = str(rng.choice(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]))
    z = build.operator(name, operands, build.tensor((1, width), *_quant(rng)), activation=activation)
    return build.build(x, z), random_inputs(int(rng.integers(1, 40)), width, 0)


@EVERY_RUNTIME
@pytest.mark.parametrize("name", ["TANH", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH", "QUANTIZE"])
def test_equals_the_runtime_on_every_int8_value(reference, name):
    if reference.name == "tflm" and name == "RELU_N1_TO_1":
        pytest.skip("TFLM has no RELU_N1_TO_1 operator")
    rng = np.random.default_rng(1)
    for _ in range(12):
        model, inputs = _unary(name, rng)
        _assert_equal(reference, model, inputs)


# Scales and zero points at which an input lies within 1e-5 steps of a tie, so that the variants' tables differ.
_TABLES_THAT_DIFFER = (
    ("TANH", 0.033298857510089874, -54),
    ("TANH", 0.009242135100066662, -90),
    ("TANH", 0.004521912895143032, -36),
    ("TANH", 0.002200351795181632, -60),
    ("LOGISTIC", 0.006399080157279968, -51),
    ("LOGISTIC", 0.0005502459243871272, -66),
    ("LOGISTIC", 0.0015626985114067793, 37),
    ("LOGISTIC", 0.07012524455785751, 53),
)


@EVERY_RUNTIME
@pytest.mark.parametrize(("name", "scale", "zero_point"), _TABLES_THAT_DIFFER)
def test_equals_the_runtime_where_tables_differ(reference, name, scale, zero_point):
    build = ModelBuilder()
    x = build.tensor((1, 256), scale, zero_point)
    target = {"TANH": (1 / 128, 0), "LOGISTIC": (1 / 256, -128)}[name]
    model = build.build(x, build.operator(name, (x,), build.tensor((1, 256), *target)))
    inputs = np.arange(-128, 128, dtype=np.int8)[np.newaxis]
    _assert_equal(reference, model, inputs)


def _tied_dense(rng):
    """Powers of two everywhere: every accumulator is a multiple of a step's fraction, and ties are common."""
    build = ModelBuilder()
    width, units = int(rng.integers(1, 40)), int(rng.integers(1, 30))
    source = 2.0 ** rng.integers(-7, -3)
    scales = (2.0 ** rng.integers(-9, -4, units)).tolist() if rng.random() < 0.5 else float(2.0 ** rng.integers(-9, -4))
    biases = (source * np.array(scales)).tolist()
    x = build.tensor((1, width), source, int(rng.integers(-128, 128)))
    weights = build.tensor((units, width), scales, data=rng.integers(-127, 128, (units, width)).astype(np.int8))
    bias = build.tensor((units,), biases, data=rng.integers(-3000, 3000, units).astype(np.int32), kind="INT32")
    target = build.tensor((1, units), 2.0 ** rng.integers(-5, 4), int(rng.integers(-128, 128)))
    activation = str(rng.choice(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]))
    return build.build(x, build.operator("FULLY_CONNECTED", (x, weights, bias), target, activation=activation)), width


@EVERY_RUNTIME
def test_equals_the_runtime_on_ties(reference):
    rng = np.random.default_rng(6)
    for _ in range(40):
        model, width = _tied_dense(rng)
        inputs = random_inputs(30, width, 1)
        _assert_equal(reference, model, inputs)


@EVERY_RUNTIME
@pytest.mark.parametrize("other", ["computed", "row", "vector", "number"])
@pytest.mark.parametrize("name", ["ADD", "MUL"])
def test_equals_the_runtime_on_two_operands(reference, name, other):
    rng = np.random.default_rng(2)
    for _ in range(12):
        model, inputs = _binary(name, rng, other)
        _assert_equal(reference, model, inputs)


# Input, other input, output: sums that wrap in the int16 of the optimized kernels' vector loops, and ratios of scales that
# XNNPACK leaves to those kernels.
_EXTREME_SCALES = (
    ((0.0625, -97), (0.25, -116), (2.0**-9, 36)),
    ((1.0, 3), (1.0, -116), (2.0**-9, 36)),
    ((2.0**-12, 0), (0.5, -7), (0.6, 1)),
)


@EVERY_RUNTIME
@pytest.mark.parametrize("width", [7, 37])
@pytest.mark.parametrize("quants", _EXTREME_SCALES)
@pytest.mark.parametrize("shape", ["row", "number"])
@pytest.mark.parametrize("name", ["ADD", "MUL"])
def test_equals_the_runtime_at_extreme_scales(reference, name, shape, quants, width):
    rng = np.random.default_rng(3)
    source, other, target = quants
    for _ in range(2):
        build = ModelBuilder()
        x = build.tensor((1, width), *source)
        size = (1, width if shape == "row" else 1)
        y = build.tensor(size, *other, data=rng.integers(-128, 128, size).astype(np.int8))
        model = build.build(x, build.operator(name, (y, x), build.tensor((1, width), *target)))
        _assert_equal(reference, model, random_inputs(3, width, int(rng.integers(1000))))


@EVERY_RUNTIME
@pytest.mark.parametrize("scales", [(1.0, 2.0**-8), (2.0**-9, 1.0), (0.1294985, 0.001)])
def test_requantizes_like_the_runtime_at_extreme_scales(reference, scales):
    build = ModelBuilder()
    x = build.tensor((1, 256), scales[0], 7)
    model = build.build(x, build.operator("QUANTIZE", (x,), build.tensor((1, 256), scales[1], -128)))
    _assert_equal(reference, model, np.arange(-128, 128, dtype=np.int8)[np.newaxis])


def _floats_model(rng):
    """DEQUANTIZE and QUANTIZE to a multiple of the scale: ties are common, and the kernels' floats differ by an ulp."""
    build = ModelBuilder()
    width, scale = int(rng.integers(1, 40)), float(rng.uniform(0.01, 0.02))
    x = build.tensor((1, width), scale, int(rng.integers(-128, 128)))
    floats = build.operator("DEQUANTIZE", (x,), build.tensor((1, width), kind="FLOAT32"))
    target = build.tensor((1, width), scale * int(rng.choice([1, 2, 3, 4, 8])), int(rng.integers(-128, 128)))
    return build.build(x, build.operator("QUANTIZE", (floats,), target)), width


@EVERY_RUNTIME
def test_equals_the_runtime_on_floats_near_ties(reference):
    rng = np.random.default_rng(9)
    for _ in range(25):
        model, width = _floats_model(rng)
        inputs = random_inputs(int(rng.integers(1, 30)), width, 1)
        _assert_equal(reference, model, inputs)


def _shapes_model():
    """RESHAPE, CONCATENATION, DEQUANTIZE and a QUANTIZE of floats."""
    build = ModelBuilder()
    x = build.tensor((1, 22), 0.03, 5)
    folded = build.operator("RESHAPE", (x,), build.tensor((1, 2, 11), 0.03, 5))
    tanh = build.operator("TANH", (folded,), build.tensor((1, 2, 11), 1 / 128, 0))
    joined = build.operator("CONCATENATION", (tanh, tanh), build.tensor((1, 4, 11), 1 / 128, 0), axis=1)
    floats = build.operator("DEQUANTIZE", (joined,), build.tensor((1, 4, 11), kind="FLOAT32"))
    narrow = build.operator("QUANTIZE", (floats,), build.tensor((1, 4, 11), 0.0173, -9))
    return build.build(x, build.operator("RESHAPE", (narrow,), build.tensor((1, 44), 0.0173, -9)))


@EVERY_RUNTIME
def test_equals_the_runtime_on_shapes_and_floats(reference):
    model = _shapes_model()
    runtime, emulator = reference.make(model), EmulatedRuntime(model, reference.variant)
    for row in random_inputs(40, 22, 0):  # one by one: the desktop's RESHAPE has its batch size written into it
        assert np.array_equal(runtime.infer_raw(row), emulator.infer_raw(row))


def test_layers_leave_out_float_outputs():
    layers = EmulatedRuntime(_shapes_model(), TFLM).layers_raw_batch(random_inputs(3, 22, 0))
    assert [layer.operator for layer in layers] == ["RESHAPE", "TANH", "CONCATENATION", "QUANTIZE", "RESHAPE"]
    assert all(layer.values.dtype == np.int8 and layer.values.shape[0] == 3 for layer in layers)


@pytest.mark.parametrize("variant", KNOWN_VARIANTS, ids=lambda v: v.name)
def test_a_batch_equals_its_rows(variant: Variant):
    emulator = EmulatedRuntime(actor((6, 16, 2), "TANH", per_channel=True, seed=4), variant)
    inputs = random_inputs(5000, 6, 1)  # several blocks and threads, the last block short
    together = emulator.infer_raw_batch(inputs)
    assert np.array_equal(together[-30:], np.array([emulator.infer_raw(row) for row in inputs[-30:]]))
    assert np.array_equal(together, emulator.layers_raw_batch(inputs)[-1].values)
    assert emulator.infer_raw_batch(inputs[:0]).shape == (0, 2)


def test_deep_layers_are_summed_exactly():
    """2000 inputs of full size exceed what float32 sums hold; so many rows go through compiled code."""
    build = ModelBuilder()
    x = build.tensor((1, 2000), 0.02, -128)
    weights = build.tensor((2, 2000), (0.01, 0.02), data=np.full((2, 2000), 127, np.int8))
    bias = build.tensor((2,), (0.0002, 0.0004), data=np.array([-1, 12345], np.int32), kind="INT32")
    model = build.build(x, build.operator("FULLY_CONNECTED", (x, weights, bias), build.tensor((1, 2), 60.0, 3)))
    inputs = random_inputs(1100, 2000, 2)
    for reference in LITERT_RUNTIMES:
        _assert_equal(reference, model, inputs)


def test_ignored_channel_scales_change_most_outputs():
    model = actor((6, 32, 32, 2), "RELU", per_channel=True, seed=0)
    inputs = random_inputs(500, 6, 0)
    right, wrong = (EmulatedRuntime(model, v).infer_raw_batch(inputs) for v in (TFLM, TFLM_FIRST_SCALE))
    assert np.mean(right != wrong) > 0.5


def test_family_is_distinct_and_named():
    variants = family()
    assert variants[: len(KNOWN_VARIANTS)] == KNOWN_VARIANTS
    assert (
        len({v.name for v in variants})
        == len(variants)
        == len({(v.rounding, v.kernels, v.float64_product, v.first_scale_only, v.floored_blocks) for v in variants})
    )


def test_unknown_operator_is_named():
    build = ModelBuilder()
    x = build.tensor((1, 4), 0.1, 0)
    model = build.build(x, build.operator("ABS", (x,), build.tensor((1, 4), 0.1, 0)))
    with pytest.raises(UnsupportedOperatorError, match="ABS") as caught:
        EmulatedRuntime(model, TFLM)
    assert "FULLY_CONNECTED" in caught.value.hint


def test_unknown_fused_activation_is_named():
    build = ModelBuilder()
    x = build.tensor((1, 4), 0.1, 0)
    model = build.build(x, build.operator("ADD", (x, x), build.tensor((1, 4), 0.1, 0), activation="SIGN_BIT"))
    with pytest.raises(UnsupportedOperatorError, match=r"ADD .*SIGN_BIT"):
        EmulatedRuntime(model, BUILTIN)


def test_concatenation_of_several_scales_is_refused():
    build = ModelBuilder()
    x = build.tensor((1, 4), 0.1, 0)
    tanh = build.operator("TANH", (x,), build.tensor((1, 4), 1 / 128, 0))
    model = build.build(x, build.operator("CONCATENATION", (x, tanh), build.tensor((1, 8), 0.1, 0), axis=1))
    with pytest.raises(UnsupportedOperatorError, match="CONCATENATION"):
        EmulatedRuntime(model, TFLM)


@pytest.mark.parametrize("variant", family(), ids=lambda v: v.name)
def test_compiled_code_equals_the_rules_alone(variant):
    """Batches of many rows go through compiled code, few rows through the rules: the same numbers, whatever is left over."""
    inputs = random_inputs(2077, 6, 0)
    for activation in ("TANH", "RELU"):
        emulator = EmulatedRuntime(actor((6, 9, 5, 3), activation, per_channel=True, seed=3), variant)
        few = [emulator.layers_raw_batch(inputs[start : start + 512]) for start in range(0, len(inputs), 512)]
        for op, layer in enumerate(emulator.layers_raw_batch(inputs)):
            assert np.array_equal(layer.values, np.concatenate([part[op].values for part in few]))


def test_a_requantization_beyond_compiled_code_is_computed_by_the_rule():
    """A multiplier above 1 shifts to the left."""
    build = ModelBuilder()
    x = build.tensor((1, 6), 0.5, 3)
    weights = build.tensor((2, 6), 0.5, data=np.arange(-6, 6, dtype=np.int8).reshape(2, 6))
    model = build.build(x, build.operator("FULLY_CONNECTED", (x, weights), build.tensor((1, 2), 0.1, 0)))
    inputs = random_inputs(1100, 6, 0)
    assert np.array_equal(EmulatedRuntime(model, TFLM).infer_raw_batch(inputs), TflmRuntime(model).infer_raw_batch(inputs))


def _forked():
    """No chain: an operator that reads the input and its own tanh."""
    build = ModelBuilder()
    x = build.tensor((1, 24), 0.02, 3)
    tanh = build.operator("TANH", (x,), build.tensor((1, 24), 1 / 128, 0))
    both = build.operator("ADD", (x, tanh), build.tensor((1, 24), 0.03, 1))
    weights = build.tensor((17, 24), 0.01, data=random_inputs(17, 24, 1))
    return build.build(x, build.operator("FULLY_CONNECTED", (both, weights), build.tensor((1, 17), 0.2, 0)))


def test_blocks_and_threads_change_nothing(monkeypatch):
    models = {24: _forked(), 6: actor((6, 24, 17, 2), "TANH", per_channel=True, seed=3)}
    for width, model in models.items():
        inputs = random_inputs(5000, width, 0)
        whole = EmulatedRuntime(model, BUILTIN, threads=1).infer_raw_batch(inputs)
        with monkeypatch.context() as patch:
            patch.setattr(interpreter, "_BLOCK_VALUES", 32 * 24)
            patch.setattr(interpreter, "_WORTH_THREADS", 0)
            assert np.array_equal(EmulatedRuntime(model, BUILTIN, threads=3).infer_raw_batch(inputs), whole)


_BASELINE = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2"
_SCRIPT = """
import numpy as np
from balance_hil.runtimes.emulated import KNOWN_VARIANTS, EmulatedRuntime
from balance_hil.testing.synthetic_models import actor
from balance_hil.testing.verify_emulators import random_inputs
inputs = random_inputs(1100, 6, 0)
for activation in ("TANH", "RELU"):
    for variant in KNOWN_VARIANTS:
        emulator = EmulatedRuntime(actor((6, 33, 16, 2), activation, per_channel=True, seed=5), variant)
        few = np.concatenate([emulator.infer_raw_batch(inputs[start : start + 550]) for start in (0, 550)])
        assert np.array_equal(emulator.infer_raw_batch(inputs), few), variant.name
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names a processor of x86-64")
def test_a_processor_without_avx512_computes_the_same(tmp_path):
    """Machine code for a Haswell, with AVX2 only: pairs of int16, other packing, tables in memory."""
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": _BASELINE, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _SCRIPT], env={**os.environ, **environment}, check=True, timeout=240)


def test_without_a_place_for_machine_code_it_is_compiled_for_this_process(monkeypatch):
    def njit(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")  # as numba says it
        return lambda function: ("compiled", function, options["nogil"])

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled._compiled(len) == ("compiled", len, True)


def test_rows_at_the_end_are_not_written_beyond():
    """Inside, whole words are written: the neighbors of a batch must not be changed by them."""
    emulator = EmulatedRuntime(actor((6, 9, 5, 3), "TANH", per_channel=True, seed=3), TFLM, threads=1)
    inputs = random_inputs(3000, 6, 0)
    whole = emulator.layers_raw_batch(inputs)
    for rows in (1024, 1025, 1087, 1088, 1150, 2047):
        for some in (slice(0, rows), slice(3000 - rows, 3000)):
            for layer, right in zip(emulator.layers_raw_batch(inputs[some]), whole, strict=True):
                assert np.array_equal(layer.values, right.values[some])


def test_rows_of_a_wrong_size_are_refused():
    emulator = EmulatedRuntime(actor((6, 9, 3), "TANH", per_channel=True, seed=3), TFLM)
    with pytest.raises(ValueError, match="reshape"):
        emulator.infer_raw_batch(random_inputs(2000, 5, 0))


def test_a_model_without_dense_layers_runs_in_compiled_code():
    build = ModelBuilder()
    x = build.tensor((1, 7), 0.02, 3)
    model = build.build(x, build.operator("TANH", (x,), build.tensor((1, 7), 1 / 128, 0)))
    inputs = random_inputs(1100, 7, 0)
    assert np.array_equal(EmulatedRuntime(model, TFLM).infer_raw_batch(inputs), TflmRuntime(model).infer_raw_batch(inputs))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_model_that_fits_nowhere_is_refused(data):
    """Shapes, scales, types and operands that no converter writes: outputs of the right size, or one kind of error."""

    def change(parsed):
        graph = parsed.subgraphs[0]
        for _ in range(data.draw(st.integers(1, 2))):
            tensor = data.draw(st.sampled_from(graph.tensors))
            match data.draw(st.integers(0, 4)):
                case 0:
                    tensor.shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, -1]), max_size=3))
                case 1 if tensor.quantization is not None:
                    tensor.quantization.scale = data.draw(
                        st.lists(st.sampled_from([0.0, -1.0, 1e-30, 1e30, np.nan, np.inf, 0.1]), max_size=3)
                    )
                case 2:
                    tensor.type = data.draw(st.sampled_from([0, 1, 2, 3, 7, 9]))
                case 3:
                    operator = data.draw(st.sampled_from(graph.operators))
                    operator.inputs = data.draw(st.lists(st.integers(-1, len(graph.tensors) - 1), max_size=3))
                case _:
                    data.draw(st.sampled_from(parsed.operatorCodes)).builtinCode = data.draw(
                        st.sampled_from([0, 2, 6, 9, 14, 18, 19, 21, 22, 28, 114, 117])
                    )

    base = data.draw(st.sampled_from([actor((4, 8, 2), "TANH", per_channel=True, seed=3), random_policy(3), random_policy(5)]))
    with contextlib.suppress(HarnessError), np.errstate(all="ignore"):
        graph = read_graph(edit(base, change))
        variant = data.draw(st.sampled_from(KNOWN_VARIANTS))
        outputs = EmulatedRuntime(graph, variant, threads=1).infer_raw_batch(np.zeros((40, graph.n_obs), np.int8))
        assert outputs.shape == (40, graph.n_act)
