"""Models that nobody here exported: float ends, other shapes, several outputs, scales per tensor or per channel."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from click.testing import CliRunner

from balance_hil.boards.engines import MAX_VALUES
from balance_hil.bundle import FLOAT_MODEL
from balance_hil.cli.compare import command
from balance_hil.comparing import float_io, model_under_test, summarize
from balance_hil.errors import BundleError, ElementTypeError, ModelTooWideError, UnsupportedOperatorError, UsageError
from balance_hil.quantize import INT16X8, quantize
from balance_hil.runtimes import INT8_RUNTIME_NAMES, load_model_runtime, model_runtime_names
from balance_hil.runtimes.trial import fatal_runtimes
from balance_hil.testing.synthetic_models import ModelBuilder, actor, random_dense
from balance_hil.tflite.codec import edit
from balance_hil.tflite.edit import quantized_core
from balance_hil.tflite.graph import read_graph

SHAPES = {"row": (1, 6), "two dimensions": (1, 2, 3), "no batch": (6,)}


def _model(
    shape=(1, 6), *, float_input=True, float_output=True, fixed_reshape=False, per_channel=True, outputs=1, activation="TANH"
):
    rng = np.random.default_rng(0)
    build = ModelBuilder()
    source = codes = build.tensor(shape, kind="FLOAT32") if float_input else build.tensor(shape, 0.03, -5)
    if float_input:
        codes = build.operator("QUANTIZE", (source,), build.tensor(shape, 0.03, -5))
    if fixed_reshape:
        to = build.tensor((2,), data=np.array([1, 6], np.int32), kind="INT32")
        codes = build.operator("RESHAPE", (codes, to), build.tensor((1, 6), 0.03, -5))
    found = []
    for units in range(9, 9 + outputs):
        weights = rng.integers(-127, 127, (units, 6)).astype(np.int8)
        scales = rng.uniform(0.001, 0.01, units).tolist() if per_channel else 0.007
        dense = build.operator(
            "FULLY_CONNECTED", (codes, build.tensor((units, 6), scales, data=weights), -1), build.tensor((1, units), 0.05, 3)
        )
        last = build.operator(activation, (dense,), build.tensor((1, units), 1 / 128, 0))
        found.append(build.operator("DEQUANTIZE", (last,), build.tensor((1, units), kind="FLOAT32")) if float_output else last)
    return build.build(source, found if outputs > 1 else found[0])


@pytest.fixture
def compared(tmp_path):
    """``compared(model, *options)``: exit status and JSON document of ``hil compare``."""

    def run(model, *options):
        file = tmp_path / "model.tflite"
        file.write_bytes(model)
        result = CliRunner().invoke(
            command, [str(file), "--samples", "1500", "--layer-samples", "40", "--json", *options], catch_exceptions=False
        )
        return result.exit_code, json.loads(result.stdout)

    return run


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_float_model_is_compared_on_every_runtime_and_a_board(shape, compared):
    model = _model(shape, fixed_reshape=shape != (1, 6))
    status, found = compared(model, "--board", "native", "--engine", "int8")
    assert (status, found["unexplained"], found["board_equals_tflm"]) == (0, 0, True)
    assert set(INT8_RUNTIME_NAMES) <= set(found["runtimes"])
    assert any(pair["differing"] for pair in found["pairs"])
    assert all(pair["unexplained"] == 0 for pair in found["pairs"])
    ends = {end["runtime"]: end for end in found["float_io"]}
    assert set(ends) == set(INT8_RUNTIME_NAMES)
    # The host quantizes like TFLM; XNNPACK and the optimized kernels multiply by the reciprocal and round ties to even.
    assert ends["tflm"]["input_differing"] == ends["tflm"]["action_differing"] == 0
    assert ends["int8-xnnpack"]["input_differing"] == ends["int8-builtin"]["input_differing"] > 100


def test_the_shapes_that_a_flatten_computes_are_no_layers_to_compare(compared):
    build = ModelBuilder()
    source = build.tensor((1, 5, 4, 3), 0.02, -7)
    weights = np.random.default_rng(0).integers(-127, 128, (3, 60), dtype=np.int8)
    model = build.build(source, build.dense(build.flatten(source), weights, 0.01, (0.3, 0)))
    status, found = compared(model, "--board", "native", "--engine", "int8")
    assert (status, found["unexplained"], found["board_equals_tflm"]) == (0, 0, True)
    assert found["hidden_layers"] == ["0 SHAPE", "1 STRIDED_SLICE", "2 PACK"]
    assert {layer["operator"] for layer in found["layers"]} == {"RESHAPE", "FULLY_CONNECTED"}


@pytest.mark.parametrize(("float_input", "float_output"), [(True, False), (False, True)])
def test_one_end_alone_may_be_float(float_input, float_output, compared):
    status, found = compared(_model(float_input=float_input, float_output=float_output, per_channel=False))
    assert (status, found["unexplained"], len(found["float_io"])) == (0, 0, 4)
    assert (found["float_io"][0]["input_differing"] > 0) == float_input


def test_one_of_several_outputs_is_chosen(compared):
    model = _model(outputs=2)
    for output, units in (("0", 9), ("1", 10)):
        status, found = compared(model, "--output", output)
        assert (status, found["unexplained"], found["pairs"][0]["outputs"]) == (0, 0, 1500 * units)


def test_ends_that_no_emulator_gives_are_unexplained(compared, monkeypatch):
    whole = float_io._run_whole

    def off_by_one_bit(name, model):
        run = whole(name, model)
        return lambda rows: np.nextafter(run(rows), np.float32(9)) if name == "int8-builtin" else run(rows)

    monkeypatch.setattr(float_io, "_run_whole", off_by_one_bit)
    status, found = compared(_model())
    assert status == 1
    assert found["unexplained"] == 9 * found["float_io"][0]["observations"]


def test_a_hybrid_network_is_refused():
    build = ModelBuilder()
    source, target = build.tensor((1, 6), kind="FLOAT32"), build.tensor((1, 2), kind="FLOAT32")
    weights = build.tensor((2, 6), 0.1, data=np.ones((2, 6), np.int8))
    with pytest.raises(ElementTypeError, match="float input 't0' goes to FULLY_CONNECTED"):
        quantized_core(build.build(source, build.operator("FULLY_CONNECTED", (source, weights), target)))


def test_int16_is_explained(compared):
    status, found = compared(actor((6, 24, 16, 2), "TANH", per_channel=True, seed=1, element=INT16X8))
    assert (status, found["element_type"], found["unexplained"]) == (0, "int16x8", 0)
    assert found["runtimes"] == list(model_runtime_names(INT16X8))
    causes = {cause for pair in found["pairs"] for cause in pair["causes"]}
    assert causes == {"multiplier of 16 bits"}
    assert all(each["variant"] and not each["mismatches"] for each in found["arithmetics"])


def test_float32_is_compared_by_a_tolerance(compared, ppo_bundle, monkeypatch):
    model = ppo_bundle.file(FLOAT_MODEL).read_bytes()
    status, found = compared(model)
    pairs = {(pair["a"], pair["b"]): pair for pair in found["pairs"]}
    assert (status, found["element_type"], found["unexplained"]) == (0, "float32", 0)
    assert pairs["float32-reference", "tflm"]["differing"] == 0
    ordered = pairs["float32-builtin", "tflm"]
    assert ordered["causes"] == {"order of float32 sums": ordered["differing"]}
    assert 0 < ordered["max_lsb"] < 16
    monkeypatch.setattr(summarize, "FLOAT32_STEPS", 1)
    status, found = compared(model)
    assert status == 1
    assert 0 < found["unexplained"] < 2 * ordered["differing"]


@pytest.mark.parametrize("name", INT8_RUNTIME_NAMES)
def test_a_shape_fixed_inside_is_run_row_by_row(name):
    inputs = np.random.default_rng(0).integers(-128, 128, (33, 6)).astype(np.int8)
    fixed, _ = quantized_core(_model((1, 2, 3), fixed_reshape=True))
    free, _ = quantized_core(_model())
    with load_model_runtime(name, fixed) as a, load_model_runtime(name, free) as b:
        assert np.array_equal(a.infer_raw_batch(inputs), b.infer_raw_batch(inputs))
        layers = a.layers_raw_batch(inputs)
        assert [layer.values.shape for layer in layers] == [(33, 6), (33, 9), (33, 9)]
        assert np.array_equal(layers[1].values, b.layers_raw_batch(inputs)[0].values)


def test_the_core_is_the_model_between_its_ends():
    whole = _model()
    core, ends = quantized_core(whole)
    assert [operator.name for operator in read_graph(core).operators] == ["FULLY_CONNECTED", "TANH"]
    assert ends is not None
    assert ends.model == whole
    observations = np.random.default_rng(0).normal(0.0, 2.0, (50, 6)).astype(np.float32)
    with load_model_runtime("tflm", core) as runtime:
        assert np.array_equal(runtime.act_batch(observations), float_io.run_whole(whole, observations))
        assert np.array_equal(quantize(observations, runtime.input_quant), quantize(observations, read_graph(core).input_quant))


# --- Models that a runtime or a board does not take ---------------------------------------------------------------------------


def _small(operator="TANH", *, n_obs=6, bias_shape=None, units=4):
    """int8 [1, n_obs] -> FULLY_CONNECTED -> ``operator``, in float where no runtime has it in int8."""
    rng = np.random.default_rng(1)
    build = ModelBuilder()
    source = build.tensor((1, n_obs), 0.03, -5)
    weights = rng.integers(-127, 127, (units, n_obs)).astype(np.int8)
    inputs = [source, build.tensor(weights.shape, 0.007, data=weights)]
    if bias_shape is not None:
        bias = rng.integers(-900, 900, bias_shape).astype(np.int32)
        inputs.append(build.tensor(bias_shape, 0.03 * 0.007, data=bias, kind="INT32"))
    hidden = build.operator("FULLY_CONNECTED", inputs, build.tensor((1, units), 0.05, 3))
    if operator == "ELU":
        hidden = build.elementwise("ELU", build.elementwise("DEQUANTIZE", hidden, kind="FLOAT32"), kind="FLOAT32")
        operator = "QUANTIZE"
    return build.build(source, build.elementwise(operator, hidden, (1 / 128, 0)))


def test_a_runtime_that_lacks_an_operator_is_skipped_and_the_others_are_compared(compared):
    _, found = compared(_small("ELU"))
    assert [skip["runtime"] for skip in found["skipped"]] == ["int8-reference"]
    assert "ELU" in found["skipped"][0]["why"]
    assert found["runtimes"] == ["int8-xnnpack", "int8-builtin", "tflm"]
    assert len(found["pairs"]) == 3


def test_a_runtime_that_was_asked_for_and_refuses_is_an_error(compared):
    with pytest.raises(UnsupportedOperatorError, match="ELU"):
        compared(_small("ELU"), "--runtimes", "int8-reference,tflm")


def test_a_bias_of_rank_3_is_no_matter_to_those_that_take_it(compared):
    status, found = compared(_small(bias_shape=(1, 1, 4)))
    assert (status, found["unexplained"]) == (0, 0)
    assert "tflm" in found["runtimes"]
    assert {*found["runtimes"], *(skip["runtime"] for skip in found["skipped"])} == set(INT8_RUNTIME_NAMES)


def test_tensors_without_names_are_compared(compared):
    def strip(parsed):
        for tensor in parsed.subgraphs[0].tensors:
            tensor.name = None

    status, found = compared(edit(_model(float_input=False, float_output=False), strip))
    assert (status, found["unexplained"], len(found["runtimes"])) == (0, 0, 4)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (_small("HARD_SWISH"), UnsupportedOperatorError, r"HARD_SWISH \(number 1\)"),
        (_small(n_obs=MAX_VALUES + 1, units=1), ModelTooWideError, f"its inputs take {MAX_VALUES + 1} bytes"),
        (_small(n_obs=1, units=MAX_VALUES + 1), ModelTooWideError, f"its outputs take {MAX_VALUES + 1} bytes"),
    ],
)
def test_what_a_board_does_not_take_is_refused_by_name_before_anything_runs(model, error, text, compared, monkeypatch):
    def load(name, model):
        pytest.fail(f"{name} was loaded")

    monkeypatch.setattr(model_under_test, "load_model_runtime", load)
    with pytest.raises(error, match=text):
        compared(model, "--board", "native", "--engine", "int8")


@pytest.mark.parametrize("engine", ["int8", pytest.param("tflm", marks=pytest.mark.slow)])
def test_a_layer_wider_than_a_frame_is_compared(engine, compared):
    rng = np.random.default_rng(2)
    build = ModelBuilder()
    source = build.tensor((1, 6), 0.03, -5)
    hidden = random_dense(build, rng, source, 1500, per_channel=True)
    model = build.build(source, random_dense(build, rng, hidden, 2, per_channel=True))
    status, found = compared(model, "--board", "native", "--engine", engine, "--runtimes", "tflm")
    assert (status, found["board_equals_tflm"], found["unexplained"]) == (0, True, 0)


def _outsized():
    """TensorFlow Lite Micro believes the size of an output, and reads weights for it that are not there."""
    build = ModelBuilder()
    source = build.tensor((1, 1000), 0.05, 3)
    weights = build.tensor((2, 1000), 0.01, data=np.ones((2, 1000), np.int8))
    return build.build(source, build.operator("FULLY_CONNECTED", (source, weights, -1), build.tensor((1, 50_000), 0.1, 0)))


def test_an_operator_that_does_not_fit_its_tensors_is_refused_before_anything_runs(compared):
    with pytest.raises(BundleError, match=r"operator 0 \(FULLY_CONNECTED\) of this model does not fit its tensors"):
        compared(_outsized())


def test_a_runtime_that_a_model_kills_is_skipped(compared, monkeypatch):
    found = fatal_runtimes(_outsized(), INT8_RUNTIME_NAMES)
    assert "ends its process" in found["tflm"]
    module = importlib.import_module("balance_hil.comparing.compare")
    monkeypatch.setattr(module, "fatal_runtimes", lambda model, names: {"tflm": found["tflm"]})
    _, document = compared(_small("ABS"))  # which no emulator has
    assert [skip["runtime"] for skip in document["skipped"]] == ["tflm"]
    assert f"tflm cannot run this model: {found['tflm']}" in document["skipped"][0]["why"]
    assert set(document["runtimes"]) == {"int8-xnnpack", "int8-builtin", "int8-reference"}
    with pytest.raises(UnsupportedOperatorError, match="tflm cannot run this model: it ends its process"):
        compared(_small("ABS"), "--runtimes", "tflm,int8-xnnpack")


def test_one_runtime_alone_is_no_comparison(compared):
    with pytest.raises(UsageError, match="there is nothing to compare: tflm alone takes part"):
        compared(_small(), "--runtimes", "tflm")


def test_a_refused_model_is_survived():
    assert fatal_runtimes(_small("ELU"), INT8_RUNTIME_NAMES) == {}
