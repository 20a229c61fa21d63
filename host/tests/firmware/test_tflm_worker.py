"""The process that runs TensorFlow Lite Micro for the native board."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from balance_hil.protocol import messages
from balance_hil.protocol.messages import Status
from balance_hil.runtimes import tflm_worker
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.runtimes.tflm_worker import EngineHost, serve
from balance_hil.testing.synthetic_models import TANH_QUANT, ModelBuilder

from .native_board import DEADLINE_S, NativeBoard, PlayedEngine, image_file

INIT, INFER, TENSOR = 1, 2, 3
AMPLE = bytes(4)  # arena of the helper's own choice
N_OBS, N_ACT = 6, 2


def tiny_model(operator: str = "TANH", input_type: str = "INT8") -> bytes:
    """int8 [1, 6] -> FULLY_CONNECTED -> ``operator`` -> int8 [1, 2]."""
    build = ModelBuilder()
    source = build.tensor((1, N_OBS), 1 / 64, 3, kind=input_type)
    weights = np.arange(-6, 6, dtype=np.int8).reshape(N_ACT, N_OBS) * np.int8(9)
    hidden = build.dense(source, weights, 1 / 128, (1 / 32, -5), np.array([100, -300]))
    return build.build(source, build.elementwise(operator, hidden, TANH_QUANT))


def call(host: EngineHost, command: int, data: bytes, number: int = 0) -> tuple[Status, int, bytes]:
    reply = host.handle(command, number, data)
    status, detail, size = struct.unpack_from("<BII", reply)
    assert size == len(reply) - 9
    return Status(status), detail, reply[9:]


@pytest.fixture
def loaded() -> EngineHost:
    host = EngineHost()
    assert call(host, INIT, AMPLE + tiny_model())[0] == Status.OK
    return host


def test_init_describes_the_model() -> None:
    status, _, data = call(EngineHost(), INIT, AMPLE + tiny_model())
    assert status == Status.OK
    fields = struct.unpack_from("<IIHBfbfbII", data)
    model = TflmRuntime(tiny_model())
    assert fields == (N_OBS, N_ACT, 2, 0, 1 / 64, 3, 1 / 128, 0, model.arena_used_bytes, model.arena_bytes)
    assert data[struct.calcsize("<IIHBfbfbII") :][1:].decode().startswith("0.")


def test_inference_and_tensors_equal_the_tflm_runtime(loaded: EngineHost) -> None:
    model = TflmRuntime(tiny_model())
    rng = np.random.default_rng(5)
    for _ in range(200):
        row = rng.integers(-128, 128, N_OBS).astype(np.int8)
        assert call(loaded, INFER, row.tobytes()) == (Status.OK, 0, model.infer_raw(row).tobytes())
        for op, layer in enumerate(model.layers(row)):
            assert call(loaded, TENSOR, struct.pack("<H", op)) == (Status.OK, 0, layer.tobytes())


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (AMPLE + tiny_model("EXP"), Status.UNSUPPORTED_OPERATOR, "EXP"),
        (AMPLE + tiny_model(input_type="FLOAT32"), Status.MODEL_NOT_INT8, "FLOAT32"),
        (AMPLE + b"not a model at all", Status.MODEL_INVALID, "not a TensorFlow Lite model"),
        (AMPLE + tiny_model()[:200], Status.MODEL_INVALID, "cut off"),
    ],
)
def test_model_that_cannot_run_is_named(loaded: EngineHost, data: bytes, status: Status, words: str) -> None:
    found, _, message = call(loaded, INIT, data)
    assert found == status
    assert words in message.decode()
    assert call(loaded, INFER, bytes(N_OBS))[0] == Status.NO_MODEL  # the old model is gone


def test_models_side_by_side_do_not_know_of_each_other(loaded: EngineHost) -> None:
    first, second = TflmRuntime(tiny_model()), TflmRuntime(tiny_model("RELU"))
    assert call(loaded, INIT, AMPLE + tiny_model("RELU"), 1)[0] == Status.OK
    row = np.arange(N_OBS, dtype=np.int8) * 20
    for number, model in ((0, first), (1, second), (0, first)):
        assert call(loaded, INFER, row.tobytes(), number)[2] == model.infer_raw(row).tobytes()
    assert call(loaded, TENSOR, struct.pack("<H", 0), 1)[2] == second.layers(row)[0].tobytes()


def test_a_model_that_is_refused_leaves_the_one_beside_it(loaded: EngineHost) -> None:
    row = bytes(range(N_OBS))
    before = call(loaded, INFER, row)
    assert call(loaded, INIT, AMPLE + tiny_model("EXP"), 1)[0] == Status.UNSUPPORTED_OPERATOR
    assert call(loaded, INFER, row, 1)[0] == Status.NO_MODEL
    assert call(loaded, INFER, row) == before


@pytest.mark.parametrize(
    ("end", "how"), [(lambda: os.kill(os.getpid(), signal.SIGKILL), "signal 9"), (lambda: os._exit(3), "exit status 3")]
)
def test_a_model_that_ends_the_process_ends_a_child_alone(
    loaded: EngineHost, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None], how: str
) -> None:
    row = bytes(range(N_OBS))
    before = call(loaded, INFER, row)
    monkeypatch.setattr(tflm_worker, "TflmRuntime", lambda model, arena_bytes: end())
    status, _, message = call(loaded, INIT, AMPLE + tiny_model(), 1)
    assert status == Status.MODEL_INVALID
    assert how in message.decode()
    assert call(loaded, INFER, row) == before


def test_arena_too_small_says_what_was_needed_and_what_there_was() -> None:
    status, needed, message = call(EngineHost(), INIT, struct.pack("<I", 200) + tiny_model())
    assert status == Status.ARENA_TOO_SMALL
    assert needed > 200
    assert f"needs {needed} bytes, the arena has 200" in message.decode()
    assert call(EngineHost(), INIT, struct.pack("<I", needed) + tiny_model())[0] == Status.OK


@pytest.mark.parametrize(
    ("command", "data", "status"),
    [(INFER, bytes(N_OBS + 1), Status.INFERENCE_FAILED), (9, b"", Status.NOT_SUPPORTED), (INIT, b"\x01", Status.NOT_SUPPORTED)],
)
def test_senseless_requests_are_refused(loaded: EngineHost, command: int, data: bytes, status: Status) -> None:
    assert call(loaded, command, data)[0] == status
    assert call(loaded, INFER, bytes(N_OBS))[0] == Status.OK


def test_process_serves_its_socket_and_ends_with_it() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "balance_hil.runtimes.tflm_worker", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        theirs.close()
        ours.settimeout(DEADLINE_S)
        request = AMPLE + tiny_model()
        whole = struct.pack("<BBI", INIT, 0, len(request)) + request + struct.pack("<BBI", INFER, 0, N_OBS) + bytes(N_OBS)
        for piece in (whole[:3], whole[3:700], whole[700:]):
            ours.sendall(piece)
        reply = b""
        while not reply.endswith(TflmRuntime(tiny_model()).infer_raw(np.zeros(N_OBS, np.int8)).tobytes()):
            reply += ours.recv(4096)
        ours.close()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class RealEngine(PlayedEngine):
    def run(self) -> None:
        with contextlib.suppress(OSError):
            serve(self.connection)


def test_whole_native_board_with_tflm(native_program: Path, tmp_path: Path) -> None:
    """Firmware, engine host and all: what the port answers equals the runtime."""
    path = image_file(tmp_path / "image", tiny_model())
    model = TflmRuntime(tiny_model())
    rows = np.random.default_rng(6).integers(-128, 128, (50, N_OBS)).astype(np.int8)
    with NativeBoard(native_program, "--image", str(path), engine=RealEngine()) as board:
        board.ready()
        assert board.hello().engine_status == Status.OK
        for row in rows:
            action = board.ask(messages.InferInt8(row))
            assert isinstance(action, messages.Action)
            assert action.output.tobytes() == model.infer_raw(row).tobytes()
            tensor = board.ask(messages.Tensor(0, 0))
            assert tensor == messages.TensorData(0, 0, len(model.layers(row)[0]), model.layers(row)[0])
