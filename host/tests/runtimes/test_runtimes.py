import subprocess
import sys

import numpy as np
import pytest

from balance_hil.bundle import FLOAT_MODEL
from balance_hil.errors import BundleError, ElementTypeError, NonFiniteInputError, UsageError
from balance_hil.quantize import FLOAT32, INT8, INT16X8, dequantize
from balance_hil.runtimes import INT8_RUNTIME_NAMES, bundle_runtime_names, load_model_runtime, load_runtime, model_runtime_names
from balance_hil.runtimes.base import ModelRuntime
from balance_hil.runtimes.onnx import OnnxRuntime
from balance_hil.runtimes.tflite import TfliteFloatRuntime, TfliteModelRuntime
from balance_hil.testing.synthetic_models import actor

NAMES = bundle_runtime_names(INT8)
FLOAT_NAMES = tuple(name for name in NAMES if name not in INT8_RUNTIME_NAMES)


@pytest.fixture(scope="module")
def runtimes(ppo_bundle):
    return {name: load_runtime(name, ppo_bundle) for name in NAMES}


@pytest.fixture(scope="module")
def observations():
    return np.random.default_rng(1).uniform(-1, 1, (500, 6)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_types_and_names(runtimes, observations, name):
    runtime = runtimes[name]
    assert (runtime.name, runtime.n_obs, runtime.n_act) == (name, 6, 2)
    actions = runtime.act_batch(observations)
    assert actions.shape == (500, 2)
    assert actions.dtype == np.float32
    assert np.all(np.abs(actions) <= 1.01)  # one LSB of int8 may lie beyond 1
    assert isinstance(runtime, ModelRuntime) == (name in INT8_RUNTIME_NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_does_not_matter(runtimes, observations, name):
    runtime = runtimes[name]
    whole = runtime.act_batch(observations)
    for size in (1, 7, 500, 3):  # there and back: the batch size is cached
        parts = runtime.act_batch(observations[:size])
        assert np.allclose(parts, whole[:size], rtol=0, atol=0 if name in INT8_RUNTIME_NAMES else 1e-6)
    assert np.allclose(runtime.act(observations[4]), whole[4], rtol=0, atol=1e-6)
    assert runtime.act_batch(observations[:0]).shape == (0, 2)


@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_float_runtimes_agree_to_rounding(runtimes, observations, name):
    assert np.max(np.abs(runtimes[name].act_batch(observations) - runtimes["torch"].act_batch(observations))) < 1e-5


@pytest.mark.parametrize("name", INT8_RUNTIME_NAMES)
def test_int8_runtimes_are_near_tflm_and_near_float(runtimes, observations, name):
    inputs = np.random.default_rng(2).integers(-128, 128, (2000, 6)).astype(np.int8)
    differences = runtimes[name].infer_raw_batch(inputs).astype(int) - runtimes["tflm"].infer_raw_batch(inputs)
    assert np.max(np.abs(differences)) <= 4  # of rounding, see compare
    assert np.mean(differences != 0) < 0.1
    assert np.max(np.abs(runtimes[name].act_batch(observations) - runtimes["float32"].act_batch(observations))) < 0.1


def test_desktop_and_tflm_rounding_do_differ(runtimes):
    """Otherwise the runtimes would not be what they say they are."""
    inputs = np.random.default_rng(3).integers(-128, 128, (20_000, 6)).astype(np.int8)
    outputs = {name: runtimes[name].infer_raw_batch(inputs) for name in INT8_RUNTIME_NAMES}
    for name in ("int8-xnnpack", "int8-builtin", "int8-reference"):
        assert np.any(outputs[name] != outputs["tflm"]), name
    # ruy rounds twice like TFLM, the other two once: it is the one that is nearer.
    rates = {name: np.mean(outputs[name] != outputs["tflm"]) for name in outputs}
    assert rates["int8-builtin"] < 0.5 * min(rates["int8-xnnpack"], rates["int8-reference"])


@pytest.mark.parametrize("name", INT8_RUNTIME_NAMES)
def test_layers_are_in_execution_order_and_end_in_the_output(runtimes, name):
    inputs = np.random.default_rng(4).integers(-128, 128, (50, 6)).astype(np.int8)
    layers = runtimes[name].layers_raw_batch(inputs)
    assert [(layer.op, layer.operator, layer.values.shape) for layer in layers] == [
        (0, "FULLY_CONNECTED", (50, 32)),
        (1, "FULLY_CONNECTED", (50, 32)),
        (2, "FULLY_CONNECTED", (50, 2)),
    ]
    assert all(layer.values.dtype == np.int8 for layer in layers)
    assert np.array_equal(layers[-1].values, runtimes[name].infer_raw_batch(inputs))
    assert [layer.values.shape for layer in runtimes[name].layers_raw_batch(inputs[:0])] == [(0, 32), (0, 32), (0, 2)]


@pytest.mark.parametrize("name", INT8_RUNTIME_NAMES)
def test_int8_runtimes_quantize_and_dequantize_by_the_same_rule(runtimes, ppo_bundle, name):
    codes = np.random.default_rng(5).integers(-128, 128, (50, 6)).astype(np.int8)
    runtime = runtimes[name]
    expected = dequantize(runtime.infer_raw_batch(codes), ppo_bundle.output_quant)
    assert np.array_equal(runtime.act_batch(dequantize(codes, ppo_bundle.input_quant)), expected)
    assert np.array_equal(runtime.infer_raw(codes[0]), runtime.infer_raw_batch(codes)[0])


@pytest.mark.parametrize("name", INT8_RUNTIME_NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_runtimes_refuse_what_is_not_finite(runtimes, name, value):
    observation = np.zeros(6, np.float32)
    observation[2] = value
    with pytest.raises(NonFiniteInputError):
        runtimes[name].act(observation)


def test_runtimes_are_context_managers_and_close_twice(ppo_bundle):
    with load_runtime("onnx", ppo_bundle) as runtime:
        runtime.act(np.zeros(6, np.float32))
    runtime.close()


def test_an_unknown_runtime_is_answered_with_the_nearest(ppo_bundle):
    with pytest.raises(UsageError) as caught:
        load_runtime("int8-xnpack", ppo_bundle)
    assert "int8-xnnpack" in caught.value.hint


def test_wrong_models_are_refused(ppo_bundle):
    float_model = ppo_bundle.file(FLOAT_MODEL).read_bytes()
    with pytest.raises(ElementTypeError):
        TfliteModelRuntime("int8-xnnpack", float_model)
    with pytest.raises(UsageError, match="needs a float model"):
        TfliteFloatRuntime(ppo_bundle.model())
    with pytest.raises(BundleError, match="cannot load"):
        OnnxRuntime(b"no onnx")


def test_importing_the_package_imports_no_engine():
    code = (
        "import sys, balance_hil.runtimes, balance_hil.evaluating, balance_hil.cli.export\n"
        "print([m for m in ('torch', 'tensorflow', 'onnx', 'onnxruntime', 'ai_edge_litert', 'tflite_micro') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("kind", [INT8, INT16X8, FLOAT32], ids=lambda kind: kind.name)
def test_a_runtime_of_another_element_type_is_refused_with_those_there_are(kind, ppo_bundle):
    model = {
        INT8: ppo_bundle.model(),
        INT16X8: actor((6, 4, 2), "RELU", per_channel=True, seed=0, element=INT16X8),
        FLOAT32: ppo_bundle.file(FLOAT_MODEL).read_bytes(),
    }[kind]
    other = INT8 if kind == INT16X8 else INT16X8
    with pytest.raises(UsageError, match=f"does not run {kind.name} models") as refused:
        load_model_runtime(model_runtime_names(other)[0], model)
    assert refused.value.hint == f"choose one of {', '.join(model_runtime_names(kind))}"
    with load_model_runtime(model_runtime_names(kind)[0], model) as runtime:
        assert runtime.infer_raw_batch(np.zeros((3, 6), kind.dtype)).dtype == kind.dtype


def test_a_float32_model_gives_the_bits_of_the_reference_kernels_in_tflm(ppo_bundle):
    model, rows = ppo_bundle.file(FLOAT_MODEL).read_bytes(), np.random.default_rng(0).uniform(-1, 1, (200, 6)).astype(np.float32)
    tflm, reference, builtin = (
        load_model_runtime(name, model).act_batch(rows) for name in ("tflm", "float32-reference", "float32-builtin")
    )
    assert tflm.tobytes() == reference.tobytes()
    assert np.allclose(builtin, tflm, rtol=0, atol=1e-5)
