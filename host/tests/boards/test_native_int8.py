"""The native board with the compact engine: no engine host, the same results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards import Board, connect
from balance_hil.boards.definition import ANY_SERIAL
from balance_hil.boards.handshake import check_model
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.native import NativeMachine
from balance_hil.bundle import Bundle
from balance_hil.errors import BoardStatusError, UnsupportedOperatorError
from balance_hil.model_image import ModelImage
from balance_hil.protocol.messages import Status
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import ModelBuilder, actor


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "policy.tflite"
    path.write_bytes(actor((6, 64, 64, 2), "TANH", per_channel=True, seed=7, squash=None))
    return path


def test_board_with_the_compact_engine_equals_tflm(model: Path):
    tflm = TflmRuntime(model.read_bytes())
    inputs = np.random.default_rng(0).integers(-128, 128, (500, tflm.n_obs), dtype=np.int8)
    with connect("native", engine="int8", model=model) as board:
        assert board.info.engine == "int8"
        assert board.info.arena_used > 0
        outputs = np.array([action.output for action in board.infer_raw_batch(inputs)])
        layers = board.layers_raw_batch(inputs[:20])
    assert np.array_equal(outputs, tflm.infer_raw_batch(inputs))
    for layer, expected in zip(layers, tflm.layers_batch(inputs[:20]), strict=True):
        assert np.array_equal(layer.values, expected)


@pytest.mark.parametrize("engine", ["int8", "tflm"])
def test_a_shape_that_the_model_computes_is_no_layer(tmp_path: Path, engine: str):
    builder = ModelBuilder()
    source = builder.tensor((1, 2, 3, 1), 0.1)
    weights = np.arange(12, dtype=np.int8).reshape(2, 6)
    path = tmp_path / "flat.tflite"
    path.write_bytes(builder.build(source, builder.dense(builder.flatten(source), weights, 0.1, (0.3, 0))))
    tflm = TflmRuntime(path.read_bytes())
    inputs = np.random.default_rng(0).integers(-128, 128, (5, 6), dtype=np.int8)
    with connect("native", engine=engine, model=path) as board:
        layers = board.layers_raw_batch(inputs)
        for op in range(3):
            with pytest.raises(BoardStatusError, match="refused Tensor: not_supported") as caught:
                board.tensor(op)
            assert "--layer-samples 0" in caught.value.hint
    expected = tflm.layers_raw_batch(inputs)
    assert [layer.op for layer in layers] == [layer.op for layer in expected] == [3, 4]
    assert all(np.array_equal(a.values, b.values) for a, b in zip(layers, expected, strict=True))


def test_an_operator_that_the_engine_lacks_is_named(linear_bundle: Bundle):
    builder = ModelBuilder()
    source = builder.tensor((1, 4), scale=0.1)
    model = builder.build([source], [builder.elementwise("EXP", source, (0.1, 0))])
    machine = NativeMachine(EmulationConfig(engine="int8", image=ModelImage(model=model)))
    with Board(machine.start(), machine=machine) as board:
        assert board.info.engine_status == Status.UNSUPPORTED_OPERATOR
        assert board.info.engine_detail == 47 * 256
    with pytest.raises(UnsupportedOperatorError, match=r"EXP \(number 0\): unknown"):
        check_model(board.info, replace(linear_bundle, id=board.info.model_id), "here", ANY_SERIAL)
