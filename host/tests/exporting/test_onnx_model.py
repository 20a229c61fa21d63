import numpy as np
import pytest

from balance_hil.exporting.onnx_model import write_onnx
from balance_hil.runtimes.onnx import OnnxRuntime

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'balance-hil[export]'")
OBSERVATIONS = np.random.default_rng(1).uniform(-2, 2, (200, 6)).astype(np.float32)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "elu", "leaky_relu", "silu"])
@pytest.mark.parametrize("bound", ["clip", "tanh"])
@pytest.mark.parametrize("layers", [(6, 2), (6, 16, 2), (6, 8, 8, 8, 2)])
def test_the_graph_computes_the_actor(tmp_path, make_actor, activation, bound, layers):
    actor = make_actor(activation, bound, layers)
    path = tmp_path / "actor.onnx"
    write_onnx(actor.layers, path)
    runtime = OnnxRuntime(path.read_bytes())
    assert (runtime.n_obs, runtime.n_act) == (6, 2)
    expected = actor.act_batch(OBSERVATIONS)
    assert np.max(np.abs(runtime.act_batch(OBSERVATIONS) - expected)) < 1e-5
    assert np.max(np.abs(expected)) > 0.9  # the bound was at work


def test_the_graph_holds_the_actor_and_nothing_else(tmp_path, make_actor):
    write_onnx(make_actor().layers, tmp_path / "actor.onnx")
    graph = onnx.load(tmp_path / "actor.onnx").graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm", "Relu", "Gemm", "Clip"]
    assert [value.name for value in graph.input] == ["observation"]
    assert [value.name for value in graph.output] == ["action"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_same_weights_give_the_same_bytes(tmp_path, make_actor):
    for name in ("a", "b"):
        write_onnx(make_actor("tanh").layers, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
