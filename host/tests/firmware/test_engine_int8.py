"""The compact engine, compiled for this machine with sanitizers, against TensorFlow Lite Micro."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest

from balance_hil.quantize import QuantParams, quantize
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import (
    ACTIVATIONS,
    LOGISTIC_QUANT,
    TANH_QUANT,
    ModelBuilder,
    random_dense,
    random_policy,
)
from balance_hil.tflite.graph import read_graph

from .engine_check import RunCheck, assert_equals_tflm, run_engine

ALL_VALUES = np.arange(-128, 128, dtype=np.int8).reshape(-1, 1)


@pytest.fixture(scope="module")
def run(engine_check: Path) -> RunCheck:
    return lambda *files: subprocess.run([engine_check, *files], capture_output=True, text=True)


def random_inputs(n_obs: int, rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (rows, n_obs), dtype=np.int8)


def elementwise_model(name: str, input_quant: tuple[float, int], output: tuple[float, int]) -> bytes:
    builder = ModelBuilder()
    source = builder.tensor((1, 1), scale=input_quant[0], zero_point=input_quant[1])
    return builder.build([source], [builder.elementwise(name, source, output)])


@pytest.mark.parametrize("seed", range(40))
def test_random_models_equal_tflm_in_every_tensor(run: RunCheck, tmp_path: Path, seed: int):
    model = random_policy(seed)
    assert_equals_tflm(run, model, random_inputs(read_graph(model).n_obs, 200, seed), tmp_path)


@pytest.mark.parametrize("name", ["TANH", "LOGISTIC"])
def test_squashing_tables_equal_tflm_for_all_inputs_and_scales(run: RunCheck, tmp_path: Path, name: str):
    rng = np.random.default_rng(1)
    output = TANH_QUANT if name == "TANH" else LOGISTIC_QUANT
    for _ in range(25):
        quant = (float(np.float32(2 ** rng.uniform(-14, 2))), int(rng.integers(-128, 128)))
        assert_equals_tflm(run, elementwise_model(name, quant, output), ALL_VALUES, tmp_path)


@pytest.mark.parametrize("name", ["RELU", "QUANTIZE"])
def test_rescaling_tables_equal_tflm_for_all_inputs_and_scales(run: RunCheck, tmp_path: Path, name: str):
    rng = np.random.default_rng(2)
    for _ in range(25):
        scale = 10 ** rng.uniform(-4, 1)
        quant = (float(np.float32(scale)), int(rng.integers(-128, 128)))
        output = (float(np.float32(scale * 2 ** rng.uniform(-6, 6))), int(rng.integers(-128, 128)))
        assert_equals_tflm(run, elementwise_model(name, quant, output), ALL_VALUES, tmp_path)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.05, 3), (0.0201, -128), (0.5, 127)])
def test_relu6_equals_tflm(run: RunCheck, tmp_path: Path, scale: float, zero_point: int):
    quant = (float(np.float32(scale)), zero_point)
    assert_equals_tflm(run, elementwise_model("RELU6", quant, quant), ALL_VALUES, tmp_path)


def test_relu_n1_to_1_clamps_to_one_which_tflm_cannot_do_alone(run: RunCheck, tmp_path: Path):
    params = QuantParams(float(np.float32(0.02)), 5)
    model = elementwise_model("RELU_N1_TO_1", (params.scale, params.zero_point), (params.scale, params.zero_point))
    low, high = quantize([-1.0, 1.0], params)
    result = run_engine(run, model, ALL_VALUES, tmp_path)
    assert np.array_equal(result.outputs, np.clip(ALL_VALUES, low, high))


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 18, 19, 64])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_dense_layers_of_every_width_equal_tflm(run: RunCheck, tmp_path: Path, columns: int, rows: int):
    rng = np.random.default_rng(columns)
    builder = ModelBuilder()
    source = builder.tensor((1, columns), scale=0.03, zero_point=int(rng.integers(-128, 128)))
    activation = ACTIVATIONS[columns % len(ACTIVATIONS)]
    out = random_dense(builder, rng, source, rows, per_channel=columns % 2 == 0, activation=activation)
    assert_equals_tflm(run, builder.build([source], [out]), random_inputs(columns, 50), tmp_path)


@pytest.mark.parametrize("gain", [2.0**-33, 2.0**-30, 0.49, 0.51, 1.0, 3.7, 100.0])
def test_multipliers_outside_the_fast_path_equal_tflm(run: RunCheck, tmp_path: Path, gain: float):
    rng = np.random.default_rng(3)
    builder = ModelBuilder()
    source = builder.tensor((1, 9), scale=1.0, zero_point=-7)
    weights = rng.integers(-2, 3, (6, 9), dtype=np.int8)
    out = builder.dense(source, weights, list(np.float32(gain * rng.uniform(0.5, 1, 6))), (1.0, 4), rng.integers(-9, 9, 6))
    assert_equals_tflm(run, builder.build([source], [out]), random_inputs(9, 300), tmp_path)


def test_large_bias_leaves_the_fast_path_and_equals_tflm(run: RunCheck, tmp_path: Path):
    builder = ModelBuilder()
    source = builder.tensor((1, 8), scale=0.5, zero_point=0)
    weights = random_inputs(8, 4, seed=5)
    bias = np.asarray([2**30 - 1, -(2**30), 2**31 - 2**19, -(2**31) + 2**19])
    out = builder.dense(source, weights, 0.001, (float(np.float32(0.0005 * 2**31 / 100)), 0), bias)
    assert_equals_tflm(run, builder.build([source], [out]), random_inputs(8, 300), tmp_path)


def test_per_tensor_multiplier_is_a_product_of_doubles(run: RunCheck, tmp_path: Path):
    """Every row's bias is chosen so that a float32 product of the scales, as older TFLM had it, gives another result."""
    input_scale, weight_scale = np.float32(0.0371), np.float32(0.00193)
    output_scale = np.float32(float(input_scale) * float(weight_scale) * 2**20 * 0.73)
    new = _multiplier(float(input_scale) * float(weight_scale) / float(output_scale))
    old = _multiplier(float(np.float32(input_scale * weight_scale)) / float(output_scale))
    ties = [int((k + 0.5) * 2 ** (31 - new[1]) / new[0]) + i for k in range(-120, 120) for i in range(-3, 4)]
    bias = np.asarray([x for x in ties if _requantize(x, *new) != _requantize(x, *old)])
    assert len(bias) > 100
    builder = ModelBuilder()
    source = builder.tensor((1, 1), scale=float(input_scale))
    weights = np.zeros((len(bias), 1), np.int8)
    out = builder.dense(source, weights, float(weight_scale), (float(output_scale), 0), bias)
    model = builder.build([source], [out])
    assert_equals_tflm(run, model, np.zeros((1, 1), np.int8), tmp_path)
    assert TflmRuntime(model).infer_raw(np.zeros(1, np.int8))[0] == _requantize(int(bias[0]), *new)


def _multiplier(value: float) -> tuple[int, int]:
    fraction, exponent = math.frexp(value)
    return math.floor(fraction * 2**31 + 0.5), exponent


def _requantize(x: int, fraction: int, exponent: int) -> int:
    product = (x * fraction + 2**30) >> 31
    mask = (1 << -exponent) - 1
    return (product >> -exponent) + ((product & mask) > (mask >> 1) + (product < 0))
