import importlib.util
import os
import sys

import numpy as np
import pytest

from balance_hil.bundle import GOLDEN
from balance_hil.errors import ArenaTooSmallError, ElementTypeError, MissingExtraError, UnsupportedOperatorError
from balance_hil.runtimes import tflm
from balance_hil.runtimes.native_stderr import captured_stderr
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import TANH_QUANT, ModelBuilder
from balance_hil.tflite.codec import edit, schema

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed: pip install 'balance-hil[int8]' (Linux x86-64 only)")


@pytest.fixture(scope="module")
def model(ppo_bundle):
    return TflmRuntime(ppo_bundle.model())


@pytest.fixture(scope="module")
def golden(ppo_bundle):
    with np.load(ppo_bundle.file(GOLDEN)) as archive:
        return dict(archive)


def with_operator(model, old, new):
    """The same flatbuffer with another operator in the place of ``old``."""
    numbers = schema().BuiltinOperator

    def change(parsed):
        code = next(c for c in parsed.operatorCodes if c.builtinCode == getattr(numbers, old))
        code.builtinCode = getattr(numbers, new)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)

    return edit(model, change)


def test_outputs_and_layers_are_the_golden_ones(model, golden):
    assert np.array_equal(model.infer_raw_batch(golden["input_int8"]), golden["output_int8"])
    layers = model.layers_batch(golden["input_int8"])
    assert len(layers) == len(golden["operators"])
    for k, layer in enumerate(layers):
        assert np.array_equal(layer, golden[f"op_{k}"])
    assert np.array_equal(layers[-1], golden["output_int8"])


def test_single_inference_equals_the_batch(model, golden):
    rows = golden["input_int8"][:20]
    assert np.array_equal(np.stack([model.infer_raw(row) for row in rows]), golden["output_int8"][:20])
    assert np.array_equal(np.stack([model.layers(row)[0] for row in rows]), golden["op_0"][:20])


def test_rows_need_not_be_contiguous(model, golden):
    wide = np.repeat(golden["input_int8"], 2, axis=1)
    assert np.array_equal(model.infer_raw_batch(wide[:, ::2]), golden["output_int8"])


def test_no_rows_give_no_rows(model):
    assert model.infer_raw_batch(np.empty((0, 6), np.int8)).shape == (0, 2)
    assert [layer.shape for layer in model.layers_batch(np.empty((0, 6), np.int8))] == [(0, 32), (0, 32), (0, 2)]


def test_the_smallest_arena_works_and_a_smaller_one_is_refused_with_both_numbers(ppo_bundle, model, golden):
    needed = model.needed_arena_bytes()
    assert model.arena_used_bytes < needed < 2 * model.arena_used_bytes
    tight = TflmRuntime(ppo_bundle.model(), arena_bytes=needed)
    assert tight.arena_bytes == needed
    assert np.array_equal(tight.infer_raw_batch(golden["input_int8"]), golden["output_int8"])
    # A tight arena must not keep the layers from being read.
    assert np.array_equal(tight.layers_batch(golden["input_int8"])[0], golden["op_0"])
    with pytest.raises(ArenaTooSmallError, match=f"needs {needed} bytes, the arena has {needed - 64}"):
        TflmRuntime(ppo_bundle.model(), arena_bytes=needed - 64)


@pytest.mark.parametrize("arena_bytes", [0, 1, 400])  # sizes at which the wheel itself ends the process
def test_an_absurd_arena_is_an_error_and_not_a_crash(ppo_bundle, arena_bytes):
    with pytest.raises(ArenaTooSmallError):
        TflmRuntime(ppo_bundle.model(), arena_bytes=arena_bytes)


def test_a_model_of_no_supported_type_is_refused(ppo_bundle):
    def change(parsed):
        parsed.subgraphs[0].tensors[parsed.subgraphs[0].inputs[0]].type = 3  # UINT8

    with pytest.raises(ElementTypeError, match="is UINT8"):
        TflmRuntime(edit(ppo_bundle.model(), change))


def test_an_operator_that_tflm_cannot_run_is_named(tiny_bundle):
    with pytest.raises(UnsupportedOperatorError, match="EXP"):
        TflmRuntime(with_operator(tiny_bundle.model(), "TANH", "EXP"))


def test_an_operator_that_tflm_does_not_know_is_named(tiny_bundle):
    with pytest.raises(UnsupportedOperatorError, match="HASHTABLE_LOOKUP"):
        TflmRuntime(with_operator(tiny_bundle.model(), "TANH", "HASHTABLE_LOOKUP"))


def without_wheel(monkeypatch):
    monkeypatch.setattr(tflm, "find_spec", lambda name: None)
    monkeypatch.setattr(tflm.platform, "machine", lambda: "arm64")


def test_where_no_wheel_exists_an_emulator_stands_in_and_says_so(model, golden, ppo_bundle, monkeypatch):
    without_wheel(monkeypatch)
    with pytest.warns(UserWarning, match=r"tflm is emulated here, bit for bit: .* this is .*arm64"):
        emulated = TflmRuntime(ppo_bundle.model())
    assert np.array_equal(emulated.infer_raw_batch(golden["input_int8"]), golden["output_int8"])
    assert np.array_equal(emulated.infer_raw(golden["input_int8"][0]), golden["output_int8"][0])
    for k, layer in enumerate(emulated.layers_batch(golden["input_int8"])):
        assert np.array_equal(layer, golden[f"op_{k}"])
    assert (emulated.arena_used_bytes, emulated.needed_arena_bytes()) == (0, 0)


def test_layers_of_the_stand_in_keep_their_places_beside_float_ones(monkeypatch):
    build = ModelBuilder()
    x = build.tensor((1, 4), 0.05, 3)
    tanh = build.elementwise("TANH", x, TANH_QUANT)
    back = build.elementwise("QUANTIZE", build.elementwise("DEQUANTIZE", tanh, kind="FLOAT32"), (1 / 64, 1))
    model, inputs = build.build(x, back), np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    real = TflmRuntime(model).layers_raw_batch(inputs)
    without_wheel(monkeypatch)
    with pytest.warns(UserWarning, match="emulated"):
        found = TflmRuntime(model).layers_raw_batch(inputs)
    assert [layer.operator for layer in found] == ["TANH", "QUANTIZE"]
    assert all(np.array_equal(a.values, b.values) for a, b in zip(real, found, strict=True))


def test_a_missing_wheel_is_told_how_to_get_it(ppo_bundle, monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, find=importlib.util.find_spec: None if name == "tflite_micro" else find(name)
    )
    monkeypatch.setattr(tflm.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(tflm.sys, "platform", "linux")
    monkeypatch.setattr(tflm.sys, "version_info", (3, 11, 0))
    with pytest.raises(MissingExtraError, match="'tflite_micro'") as caught:
        TflmRuntime(ppo_bundle.model())
    assert caught.value.hint.startswith("install it: ")


@pytest.mark.timeout(30)  # blocks that wait for each other never end
def test_captures_nest():
    with captured_stderr() as outer:
        os.write(2, b"outer ")
        with captured_stderr() as inner:
            os.write(2, b"inner")
        os.write(2, b"again")
    assert (outer.text, inner.text) == ("outer again", "inner")


def test_capture_takes_what_native_code_writes_and_gives_the_stream_back(capfd):
    with captured_stderr() as captured:
        os.write(2, b"from C\n")
    os.write(2, b"after\n")
    sys.stderr.write("python\n")
    assert captured.text == "from C\n"
    assert capfd.readouterr().err == "after\npython\n"


def test_capture_restores_the_stream_after_an_error(capfd):
    def fail():
        with captured_stderr():
            os.write(2, b"hidden\n")
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


def test_nothing_reaches_the_terminal(ppo_bundle, capfd):
    tight = TflmRuntime(ppo_bundle.model(), arena_bytes=8192)
    assert tight.arena_used_bytes > 0
    assert capfd.readouterr() == ("", "")
