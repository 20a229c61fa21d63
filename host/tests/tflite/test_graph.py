import pytest

from balance_hil.bundle import FLOAT_MODEL
from balance_hil.errors import BundleError, ModelNotInt8Error
from balance_hil.tflite.graph import read_graph


def test_graph_of_the_shipped_policy_is_three_dense_layers_with_the_clip_fused(ppo_bundle):
    graph = read_graph(ppo_bundle.int8_model())
    assert graph.operator_counts() == {"FULLY_CONNECTED": 3}
    assert [operator.activation for operator in graph.operators] == ["RELU", "RELU", "RELU_N1_TO_1"]
    assert (graph.n_obs, graph.n_act) == (6, 2)
    assert (graph.input_quant, graph.output_quant) == (ppo_bundle.input_quant, ppo_bundle.output_quant)


def test_weights_have_one_scale_for_each_output_channel(ppo_bundle):
    graph = read_graph(ppo_bundle.int8_model())
    weights = [graph.tensors[operator.inputs[1]] for operator in graph.operators]
    assert [len(tensor.scales) for tensor in weights] == [tensor.shape[0] for tensor in weights]
    assert all(tensor.constant for tensor in weights)
    assert not graph.output_of(graph.operators[0]).constant


def test_per_tensor_export_has_one_scale_for_each_weight_tensor_and_ends_in_tanh(tiny_bundle):
    graph = read_graph(tiny_bundle.int8_model())
    assert graph.operator_counts() == {"FULLY_CONNECTED": 3, "TANH": 1}
    dense = [operator for operator in graph.operators if operator.name == "FULLY_CONNECTED"]
    assert [len(graph.tensors[operator.inputs[1]].scales) for operator in dense] == [1, 1, 1]


def test_a_float_model_has_no_quantization(ppo_bundle):
    graph = read_graph(ppo_bundle.file(FLOAT_MODEL).read_bytes())
    with pytest.raises(ModelNotInt8Error, match=r"input .* is FLOAT32"):
        _ = graph.input_quant
    with pytest.raises(ModelNotInt8Error, match="output"):
        _ = graph.output_quant


@pytest.mark.parametrize("size", [0, 3, 8, 60, 500, 3000])
def test_a_cut_model_is_refused(ppo_bundle, size):
    with pytest.raises(BundleError):
        read_graph(ppo_bundle.int8_model()[:size])


def test_another_kind_of_file_is_refused():
    with pytest.raises(BundleError, match="not a TensorFlow Lite model"):
        read_graph(b"\x89PNG\r\n\x1a\n" + bytes(1000))
