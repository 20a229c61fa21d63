"""ONNX actors, as rsl_rl, mjlab and others write them, made here by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from balance_hil.checkpoint.actor import act_through
from balance_hil.checkpoint.onnx_actor import read_onnx, run_onnx
from balance_hil.errors import CheckpointError
from balance_hil.exporting.onnx_model import write_graph
from balance_hil.runtimes.onnx import OnnxRuntime
from balance_hil.spec import ActionMap

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'balance-hil[export]'")
external_data_helper = pytest.importorskip("onnx.external_data_helper")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
RNG = np.random.default_rng(0)
MEAN, STD = RNG.normal(0, 2, (1, 5)).astype(np.float32), RNG.uniform(0.5, 3, (1, 5)).astype(np.float32)
WEIGHTS = [RNG.normal(0, 0.6, shape).astype(np.float32) for shape in ((8, 5), (8, 8), (3, 8))]
BIASES = [RNG.normal(0, 0.3, n).astype(np.float32) for n in (8, 8, 3)]
ROWS = RNG.normal(0, 3, (40, 5)).astype(np.float32)


def save(path, *, normalizer=True, activation="Elu", batch=1, residual=False, metadata=(), change=lambda graph: None, tail=()):
    """``(obs - mean) / (std + 0.01)``, three dense layers, opset 18; a static batch as rsl_rl has it."""
    constants = {"mean": MEAN, "std": STD, "eps": np.float32(0.01)} if normalizer else {}
    nodes, value = [], "obs"
    if normalizer:
        nodes = [
            helper.make_node("Sub", ["obs", "mean"], ["centered"]),
            helper.make_node("Add", ["std", "eps"], ["scale"]),
            helper.make_node("Div", ["centered", "scale"], ["normalized"]),
        ]
        value = "normalized"
    for i, (weight, bias) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
        constants |= {f"w{i}": weight, f"b{i}": bias}
        before = value
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"g{i}"], transB=1))
        value = f"g{i}"
        if residual and i == 1:
            nodes.append(helper.make_node("Add", [value, before], ["sum"]))
            value = "sum"
        if i < 2:
            nodes.append(helper.make_node(activation, [value], [f"a{i}"]))
            value = f"a{i}"
    nodes += tail
    nodes.append(helper.make_node("Identity", [tail[-1].output[0] if tail else value], ["actions"]))
    graph = helper.make_graph(
        nodes,
        "actor",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, [batch, 5])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    change(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return model


def expected(rows, *, normalizer=True, residual=False):
    values = (rows - MEAN) / (STD + 0.01) if normalizer else rows
    for i, (weight, bias) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
        before, values = values, values @ weight.T + bias
        values = values + before if residual and i == 1 else values
        if i < 2:
            values = np.where(values > 0, values, np.expm1(np.minimum(values, 0)))
    return values


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("normalizer", [True, False])
def test_a_chain_is_taken_apart_and_its_normalizer_cut_off(tmp_path, batch, normalizer):
    save(tmp_path / "policy.onnx", batch=batch, normalizer=normalizer)
    actor = read_onnx(tmp_path / "policy.onnx")
    assert (actor.n_obs, actor.n_act, actor.reason) == (5, 3, "")
    assert [layer.activation for layer in actor.network.layers] == ["elu", "elu", ""]
    assert (actor.normalization is not None) == normalizer
    inputs = actor.normalization.apply(ROWS) if normalizer else ROWS
    assert np.allclose(act_through(actor.network.layers, inputs), expected(ROWS, normalizer=normalizer), atol=1e-5)
    assert np.allclose(run_onnx(actor.model, ROWS), expected(ROWS, normalizer=normalizer), atol=1e-5)
    if normalizer:
        assert np.allclose(actor.normalization.mean, MEAN[0])
        assert np.allclose(actor.normalization.inverse_std, 1 / (STD[0] + 0.01))


def test_another_graph_stays_as_it_is_behind_its_normalizer(tmp_path):
    save(tmp_path / "policy.onnx", residual=True)
    actor = read_onnx(tmp_path / "policy.onnx")
    assert actor.network is None
    assert "goes to 2 nodes" in actor.reason
    assert np.allclose(actor.normalization.mean, MEAN[0])
    inputs = actor.normalization.apply(ROWS)
    assert np.allclose(run_onnx(actor.graph, inputs), expected(ROWS, residual=True), atol=1e-5)
    low, high = np.float32([-2, -1, 0]), np.float32([2, 1, 1])
    spec = SimpleNamespace(action_map=ActionMap.of_box(low, high), action=[SimpleNamespace(min=-1.0)] * 3)
    write_graph(actor, spec, tmp_path / "actor.onnx")
    runtime = OnnxRuntime((tmp_path / "actor.onnx").read_bytes())
    outputs = runtime.act_batch(inputs)
    assert np.abs(outputs).max() == 1.0
    assert np.allclose(spec.action_map(outputs), np.clip(expected(ROWS, residual=True), low, high), atol=1e-5)


def test_limits_at_the_end_are_kept(tmp_path):
    tail = [helper.make_node("Clip", ["g2", "low", "high"], ["clipped"])]

    def limits(graph):
        graph.initializer.extend(numpy_helper.from_array(np.float32(v), n) for n, v in (("low", -0.5), ("high", 0.8)))

    save(tmp_path / "policy.onnx", tail=tail, change=limits)
    network = read_onnx(tmp_path / "policy.onnx").network
    assert (network.limits.low, network.limits.high) == pytest.approx((-0.5, 0.8))


def test_metadata_names_elements_where_their_number_fits(tmp_path):
    metadata = {"joint_names": "hip, knee ,ankle", "observation_names": "velocity,gravity"}
    save(tmp_path / "policy.onnx", metadata=metadata.items())
    actor = read_onnx(tmp_path / "policy.onnx")
    assert actor.names("joint_names", 3) == ("hip", "knee", "ankle")
    assert actor.names("observation_names", 5) == ()  # terms, not elements


# --- weights beside the model -------------------------------------------------------------------------------------------------


def save_external(path, location):
    model = save(path)
    external_data_helper.convert_model_to_external_data(model, location=location, size_threshold=0)
    return model


def test_weights_beside_the_model_are_read(tmp_path):
    onnx.save(save_external(tmp_path / "policy.onnx", "policy.onnx.data"), tmp_path / "policy.onnx")
    assert (tmp_path / "policy.onnx.data").is_file()
    actor = read_onnx(tmp_path / "policy.onnx")
    assert np.allclose(run_onnx(actor.model, ROWS), expected(ROWS), atol=1e-5)
    (tmp_path / "policy.onnx.data").unlink()
    with pytest.raises(CheckpointError, match=r"needs its weights, policy\.onnx\.data, beside it"):
        read_onnx(tmp_path / "policy.onnx")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link"])
def test_weights_outside_the_folder_are_not_read(tmp_path, location):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    (inside / "link").symlink_to(tmp_path / "secret")
    model = save(inside / "policy.onnx")
    for tensor in model.graph.initializer:
        external_data_helper.set_external_data(tensor, location)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
    (inside / "policy.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_onnx(inside / "policy.onnx")


# --- refused by name -----------------------------------------------------------------------------------------------------------


def with_input(name, shape):
    return lambda graph: graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_input("h_in", [1, 1, 8]), "is recurrent"),
        (with_input("time_step", [1, 1]), "has 2 inputs: obs, time_step"),
        (lambda graph: graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value"), "of a known size"),
        (lambda graph: graph.input[0].type.tensor_type.shape.dim.add(dim_value=3), "not float32"),
        (lambda graph: setattr(graph.output[0], "name", "nothing"), "not an ONNX model, or damaged"),
        (
            lambda graph: graph.output.append(helper.make_tensor_value_info("g0", TensorProto.FLOAT, [1, 8])),
            None,  # of several outputs the one called actions is meant
        ),
    ],
)
def test_what_is_no_policy_is_named(tmp_path, change, message):
    save(tmp_path / "policy.onnx", change=change)
    if message is None:
        assert read_onnx(tmp_path / "policy.onnx").n_act == 3
        return
    with pytest.raises(CheckpointError, match=message):
        read_onnx(tmp_path / "policy.onnx")


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x07\x12\xff" * 20])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, content):
    (tmp_path / "policy.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"policy\.onnx"):
        read_onnx(tmp_path / "policy.onnx")


def test_every_cut_is_refused(tmp_path):
    save(tmp_path / "policy.onnx")
    whole = (tmp_path / "policy.onnx").read_bytes()
    for size in range(0, len(whole) - 200, len(whole) // 12):
        (tmp_path / "policy.onnx").write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_onnx(tmp_path / "policy.onnx")
