"""Convolutions and the other kernels of the compact engine, with sanitizers, against TensorFlow Lite Micro."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards.arena import compact_need
from balance_hil.model_image import KERNELS, ModelImage
from balance_hil.testing.convolutional_models import OPERATORS, VALID, random_network, random_operator
from balance_hil.testing.synthetic_models import ModelBuilder, actor
from balance_hil.tflite.graph import read_graph

from .engine_check import RunCheck, assert_equals_tflm, run_engine, tflm_layers
from .kernel_models import EXTREME, extreme_operator, flattened_image

RUNS = tuple(name for name in OPERATORS if name.split()[-1] in KERNELS)
ROWS = 20


@pytest.fixture(scope="module")
def run(engine_check: Path) -> RunCheck:
    return lambda *files: subprocess.run([engine_check, *files], capture_output=True, text=True)


def inputs_of(model: bytes, seed: int = 0) -> np.ndarray:
    inputs = np.random.default_rng(seed).integers(-128, 128, (ROWS, read_graph(model).n_obs), dtype=np.int8)
    inputs[:2] = [[-128], [127]]
    return inputs


def test_every_kernel_is_tried() -> None:
    assert {name.split()[-1] for name in RUNS} == set(KERNELS)


@pytest.mark.parametrize("name", RUNS)
def test_random_operators_equal_tflm(run: RunCheck, tmp_path: Path, name: str) -> None:
    for seed in range(6):
        model = random_operator(name, seed)
        assert_equals_tflm(run, model, inputs_of(model, seed), tmp_path)


@pytest.mark.parametrize("name", EXTREME)
def test_extreme_operators_equal_tflm(run: RunCheck, tmp_path: Path, name: str) -> None:
    for seed in range(12):
        model = extreme_operator(name, seed)
        assert_equals_tflm(run, model, inputs_of(model, seed), tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_equal_tflm_in_every_tensor_and_in_the_least_arena(
    engine_check: Path, run: RunCheck, tmp_path: Path, seed: int
) -> None:
    model = random_network(seed, RUNS)
    inputs = inputs_of(model, seed)
    assert_equals_tflm(run, model, inputs, tmp_path)
    done = subprocess.run([engine_check, *(tmp_path / f"{name}" for name in ("model.tflite", "inputs.bin", "out.bin")), "least"])
    assert done.returncode == 0
    outputs = np.fromfile(tmp_path / "out.bin", np.int8).reshape(ROWS, -1)
    expected = tflm_layers(model, inputs)[1]
    assert np.array_equal(outputs[:, -expected.shape[1] :], expected)


@pytest.mark.parametrize("convolves", [True, False])
def test_an_image_is_flattened_as_by_keras_without_memory_for_its_shape(
    engine_check: Path, run: RunCheck, tmp_path: Path, convolves: bool
) -> None:
    model = flattened_image(convolves, (1, 1))  # smaller than its shape would be
    inputs = inputs_of(model)
    assert_equals_tflm(run, model, inputs, tmp_path)
    need = compact_need(read_graph(model))
    kept = run_engine(run, model, inputs, tmp_path)
    least = [engine_check, *(tmp_path / name for name in ("model.tflite", "inputs.bin", "out.bin")), "least"]
    words = subprocess.run(least, capture_output=True, text=True, check=True).stdout.split()
    saved = 4 if convolves else 0  # the output, where the input was; the other tensors meet, or are the convolution's
    assert kept.arena_bytes - int(words[words.index("arena") + 1]) == saved == need.all_kept - need.least
    outputs = np.fromfile(tmp_path / "out.bin", np.int8).reshape(ROWS, -1)
    assert np.array_equal(outputs[:, -3:], kept.outputs)


def shape_as_data(change: str) -> bytes:
    """A flattened image in which a computed shape is used as more than that; with no ``change`` it is not."""
    builder = ModelBuilder()
    source = builder.tensor((1, 2, 2, 1), 0.1)
    flat = output = builder.flatten(source)
    if change == "int8 slice":
        output = builder.tensor((1, 4), 0.1)
        numbers = [builder.numbers(values) for values in ([0, 0], [1, 4], [1, 1])]
        builder.operator("STRIDED_SLICE", (flat, *numbers), output)
    sizes, to = builder.operators[0].outputs[0], builder.operators[2].outputs[0]
    if change == "sum":
        to = builder.operator("ADD", (sizes, sizes), builder.tensor((4,), kind="INT32"))
    if change == "sum in int8":
        output = builder.operator("ADD", (flat, sizes), builder.tensor((1, 4), 0.1))
    if change == "padding":
        output = builder.operator("PAD", (flat, to), builder.tensor((1, 4), 0.1))
    if change == "bias":
        weights = builder.tensor((2, 4), 0.1, data=np.ones((2, 4), np.int8))
        output = builder.operator("FULLY_CONNECTED", (flat, weights, to), builder.tensor((1, 2), 0.1))
    if change == "reshaped":
        output = builder.operator("RESHAPE", (sizes, to), builder.tensor((1, 4), 0.1))
    if change == "constant":
        builder.operators[0].outputs[0] = builder.numbers([1, 2, 2, 1])
    if change == "two":
        builder.operators[0].outputs.append(builder.tensor((1, 4), 0.1))
    return builder.build(source, to if change == "output" else output)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("int8 slice", (45, 4)),
        ("sum", (0, 4)),
        ("sum in int8", (0, 4)),
        ("padding", (34, 4)),
        ("bias", (9, 4)),
        ("reshaped", (22, 4)),
        ("constant", (77, 0)),
        ("two", (77, 0)),
    ],
)
def test_a_computed_shape_is_no_data(run: RunCheck, tmp_path: Path, change: str, detail: tuple[int, int]) -> None:
    assert run_engine(run, shape_as_data(""), np.zeros((1, 4), np.int8), tmp_path).accepted
    result = run_engine(run, shape_as_data(change), np.zeros((1, 4), np.int8), tmp_path)
    assert not result.accepted
    assert result.message.startswith(f"status 15 detail {256 * detail[0] + detail[1]} ")


def test_a_computed_shape_is_no_output(run: RunCheck, tmp_path: Path) -> None:
    result = run_engine(run, shape_as_data("output"), np.zeros((1, 4), np.int8), tmp_path)
    assert result.message.startswith("status 14 ")


def residual_network(depth: int = 6) -> bytes:
    """Two tensors live at once, and many that need not be kept."""
    rng = np.random.default_rng(0)
    builder = ModelBuilder()
    first = current = builder.tensor((1, 8, 8, 4), 0.05, 3)
    for _ in range(depth):
        weights = builder.tensor((4, 3, 3, 4), 0.01, data=rng.integers(-127, 128, (4, 3, 3, 4), dtype=np.int8))
        options = {"strideH": 1, "strideW": 1, "padding": 0, "activation": "RELU"}
        branch = builder.operator("CONV_2D", (current, weights), builder.tensor((1, 8, 8, 4), 0.1, -20), **options)
        current = builder.operator("ADD", (branch, current), builder.tensor((1, 8, 8, 4), 0.1, 5))
    return builder.build(first, current)


def test_tensors_share_memory_where_the_arena_is_small(engine_check: Path, run: RunCheck, tmp_path: Path) -> None:
    model = residual_network()
    kept = run_engine(run, model, inputs_of(model), tmp_path)
    least = [engine_check, tmp_path / "model.tflite", tmp_path / "inputs.bin", tmp_path / "out.bin", "least"]
    words = subprocess.run(least, capture_output=True, text=True, check=True).stdout.split()
    arena_bytes = int(words[words.index("arena") + 1])
    # Of 13 tensors of 256 bytes, three are live at once.
    assert kept.arena_bytes - arena_bytes == 10 * 256
    assert np.array_equal(np.fromfile(tmp_path / "out.bin", np.int8).reshape(kept.outputs.shape), kept.outputs)


def convolution(change: str = "") -> bytes:
    """A small convolution; ``change`` names what is wrong with it."""
    builder = ModelBuilder()
    channels = 2
    source = builder.tensor((1, 4, 4, 2), 0.1)
    shape = (channels, 3, 3, 3 if change == "depth" else 2)
    weights = builder.tensor(shape, 0.1, data=np.ones(shape, np.int8))
    size = (1, 3, 3) if change == "output" else (1, 2, 2)
    target = builder.tensor((*size, channels), 0.5)
    options = {"strideH": 0 if change == "stride" else 1, "strideW": 1, "padding": 7 if change == "padding" else VALID}
    if change == "dilation":
        options["dilationHFactor"] = 1 << 30
    builder.operator("CONV_2D", (source, weights), target, activation="TANH" if change == "activation" else "NONE", **options)
    if change == "no options":
        builder.operators[0].builtinOptionsType, builder.operators[0].builtinOptions = 0, None
    return builder.build(source, target)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *((name, "window") for name in ("output", "stride", "padding", "dilation", "no options")),
        ("depth", "weights"),
        ("activation", "fused activation"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(run: RunCheck, tmp_path: Path, change: str, reason: str) -> None:
    assert run_engine(run, convolution(), inputs_of(convolution()), tmp_path).accepted
    result = run_engine(run, convolution(change), np.zeros((1, 32), np.int8), tmp_path)
    assert not result.accepted
    assert result.message.startswith(f"status 15 detail {3 * 256} ")
    assert result.message.endswith(f"message {reason}\n")


def test_work_is_bounded(run: RunCheck, tmp_path: Path) -> None:
    """A few bytes that would keep a board busy for hours."""
    builder = ModelBuilder()
    source = builder.tensor((1, 255, 255, 1), 0.1)
    target = builder.tensor((1, 255, 255, 1), 0.1)
    options = {"strideH": 1, "strideW": 1, "padding": 0, "filterHeight": 255, "filterWidth": 255}
    model = builder.build(source, builder.operator("MAX_POOL_2D", (source,), target, **options))
    result = run_engine(run, model, np.zeros((1, 255 * 255), np.int8), tmp_path)
    assert "message too many products" in result.message


def test_model_h_names_the_kernels_that_a_model_needs() -> None:
    dense = actor((6, 4, 2), "RELU", per_channel=True, seed=0)
    assert "HIL_MODEL_OPERATORS" not in ModelImage(model=dense).header()
    assert "#define HIL_MODEL_OPERATORS 22, 45, 77, 83\n" in ModelImage(model=flattened_image(convolves=False)).header()
    assert "#define HIL_MODEL_OPERATORS 0, 3\n" in ModelImage(model=residual_network(1)).header()
