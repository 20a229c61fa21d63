"""Reading a .tflite: what the shipped models hold, and files that are cut, garbled or hostile."""

import contextlib

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil.bundle import FLOAT_MODEL
from balance_hil.errors import BundleError, ElementTypeError, UsageError
from balance_hil.quantize import FLOAT32, INT16X8
from balance_hil.testing.synthetic_models import ModelBuilder, actor
from balance_hil.tflite.codec import edit, pack, schema, unpack
from balance_hil.tflite.edit import quantized_core, select_output
from balance_hil.tflite.graph import read_graph


def test_graph_of_the_shipped_policy_is_three_dense_layers_with_the_clip_fused(ppo_bundle):
    graph = read_graph(ppo_bundle.model())
    assert graph.operator_counts() == {"FULLY_CONNECTED": 3}
    assert [operator.activation for operator in graph.operators] == ["RELU", "RELU", "RELU_N1_TO_1"]
    assert (graph.n_obs, graph.n_act) == (6, 2)
    assert (graph.input_quant, graph.output_quant) == (ppo_bundle.input_quant, ppo_bundle.output_quant)


def test_weights_have_one_scale_for_each_output_channel(ppo_bundle):
    graph = read_graph(ppo_bundle.model())
    weights = [graph.tensors[operator.inputs[1]] for operator in graph.operators]
    assert [len(tensor.scales) for tensor in weights] == [tensor.shape[0] for tensor in weights]
    assert all(tensor.constant for tensor in weights)
    assert not graph.output_of(graph.operators[0]).constant


def test_per_tensor_export_has_one_scale_for_each_weight_tensor_and_ends_in_tanh(tiny_bundle):
    graph = read_graph(tiny_bundle.model())
    assert graph.operator_counts() == {"FULLY_CONNECTED": 3, "TANH": 1}
    dense = [operator for operator in graph.operators if operator.name == "FULLY_CONNECTED"]
    assert [len(graph.tensors[operator.inputs[1]].scales) for operator in dense] == [1, 1, 1]


def test_a_float_model_takes_values_as_they_are(ppo_bundle):
    graph = read_graph(ppo_bundle.file(FLOAT_MODEL).read_bytes())
    assert graph.kind == graph.input_quant.kind == graph.output_quant.kind == FLOAT32


def test_a_hybrid_model_has_no_quantization():
    build = ModelBuilder(FLOAT32)
    source = build.tensor((1, 6))
    weights = build.tensor((2, 6), 0.1, data=np.ones((2, 6), np.int8))
    graph = read_graph(build.build(source, build.operator("FULLY_CONNECTED", (source, weights), build.tensor((1, 2)))))
    with pytest.raises(ElementTypeError, match=r"input .* is FLOAT32"):
        _ = graph.input_quant
    with pytest.raises(ElementTypeError, match="output"):
        _ = graph.output_quant


def test_int16_with_a_zero_point_is_refused():
    build = ModelBuilder(INT16X8)
    source, target = build.tensor((1, 6), 0.1, 1), build.tensor((1, 6), 1 / 32768)
    graph = read_graph(build.build(source, build.operator("TANH", (source,), target)))
    assert graph.output_quant.kind == INT16X8
    with pytest.raises(ElementTypeError, match=r"zero points \[1\], not int16x8"):
        _ = graph.input_quant


@pytest.mark.parametrize("size", [0, 3, 8, 60, 500, 3000])
def test_a_cut_model_is_refused(ppo_bundle, size):
    with pytest.raises(BundleError):
        read_graph(ppo_bundle.model()[:size])


def test_another_kind_of_file_is_refused():
    with pytest.raises(BundleError, match="not a TensorFlow Lite model"):
        read_graph(b"\x89PNG\r\n\x1a\n" + bytes(1000))


# --- Files that nobody means well with ----------------------------------------------------------------------------------------

SMALL = actor((4, 8, 2), "TANH", per_channel=True, seed=3)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_garbled_model_is_read_or_refused(data):
    """Bytes and words changed anywhere, or the end cut off: a graph whose numbers are in range, or BundleError."""
    model = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(model) - 4))
        model[at : at + 4] = data.draw(
            st.sampled_from([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"]) | st.binary(min_size=4, max_size=4)
        )
    model = bytes(model[: data.draw(st.integers(0, len(model)) | st.just(len(model)))])
    for read in (read_graph, lambda m: select_output(m, None), quantized_core):
        with contextlib.suppress(BundleError, ElementTypeError, UsageError):
            read(model)


def _shared(count: int, name_bytes: int) -> bytes:
    """``count`` operator codes that are one and the same table, with one long name: a small file that unpacks to a large one."""
    builder = flatbuffers.Builder(1024)
    name = builder.CreateString("x" * name_bytes)
    numbers = schema()
    numbers.OperatorCodeStart(builder)
    numbers.OperatorCodeAddCustomCode(builder, name)
    code = numbers.OperatorCodeEnd(builder)
    numbers.ModelStartOperatorCodesVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(code)
    codes = builder.EndVector()
    numbers.ModelStart(builder)
    numbers.ModelAddOperatorCodes(builder, codes)
    builder.Finish(numbers.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(("count", "name_bytes", "why"), [(60_000, 1, "more than 50000 tables"), (1000, 100_000, "names longer")])
def test_a_file_that_unpacks_to_much_more_than_itself_is_refused(count, name_bytes, why):
    with pytest.raises(BundleError, match=why):
        read_graph(_shared(count, name_bytes))


def _spoiled(change):
    return edit(SMALL, lambda parsed: change(parsed.subgraphs[0], parsed))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda graph, _: graph.operators.reverse(), "reads what nothing before it computes"),
        (lambda graph, _: setattr(graph.operators[1], "outputs", graph.operators[0].outputs), "is there already"),
        (lambda graph, _: setattr(graph.operators[0], "inputs", [-7, 1, 2]), "number -7"),
        (lambda graph, _: setattr(graph.operators[0], "outputs", []), "has no output"),
        (lambda graph, _: setattr(graph.operators[0], "opcodeIndex", 9), "number 9"),
        (lambda graph, _: setattr(graph.tensors[1], "buffer", 99), "number 99"),
        (lambda graph, _: setattr(graph.tensors[0], "shape", [1, -4]), "the shape"),
        (lambda graph, _: setattr(graph.tensors[3], "shape", [1 << 15, 1 << 15]), "the shape"),
        (lambda graph, _: setattr(graph, "outputs", [77]), "number 77"),
        (lambda graph, _: setattr(graph, "operators", None), "nothing computes the output"),
        (lambda _, parsed: setattr(parsed, "subgraphs", []), "cut off or garbled"),
    ],
)
def test_numbers_that_cannot_be_are_refused(change, why):
    with pytest.raises(BundleError, match=why):
        read_graph(_spoiled(change))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_scale_is_no_int8_model(scale):
    graph = read_graph(_spoiled(lambda graph, _: setattr(graph.tensors[0].quantization, "scale", [scale])))
    with pytest.raises(ElementTypeError, match="not int8 with one scale"):
        _ = graph.input_quant


def test_tensors_without_names_are_numbered():
    def strip(graph, _):
        for tensor in graph.tensors:
            tensor.name = None

    graph = read_graph(_spoiled(strip))
    assert (graph.input.name, graph.output.name) == ("tensor 0", f"tensor {graph.output.index}")
    assert select_output(_spoiled(strip), None) == _spoiled(strip)


def test_packing_keeps_what_was_read(ppo_bundle):
    model = ppo_bundle.model()
    again = pack(unpack(model))
    assert read_graph(again) == read_graph(model)
    for before, after in zip(read_graph(model).tensors, read_graph(again).tensors, strict=True):
        assert (before.data is None and after.data is None) or np.array_equal(before.data, after.data)
