"""The native board as a process: boot, requests, misuse and every way of ending."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import serial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balance_hil.bundle import model_id
from balance_hil.firmware_build import firmware_commit
from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode, seal
from balance_hil.protocol.messages import Status
from balance_hil.quantize import Normalization, QuantParams, quantize

from .native_board import DEADLINE_S, N_ACT, N_OBS, NativeBoard, PlayedEngine, image_file

MODEL = b"the engine is played by the test, so any bytes are a model"


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    return image_file(tmp_path / "image", MODEL)


@pytest.fixture
def board(native_program: Path, model_file: Path):
    with NativeBoard(native_program, "--image", str(model_file)) as started:
        assert started.ready().reset_cause == 0
        yield started


def error(board: NativeBoard, data: bytes) -> tuple[Status, int]:
    board.write(data)
    message = board.receive().message
    assert isinstance(message, messages.Error)
    return Status(message.status), message.detail


def test_a_session_from_boot_to_tensor(board: NativeBoard) -> None:
    info = board.hello()
    assert (info.board, info.engine, info.engine_version, info.engine_status) == ("native", "tflm", "0.42", Status.OK)
    assert (info.n_obs, info.n_act, info.n_ops, info.input_zero_point, info.output_zero_point) == (N_OBS, N_ACT, 1, 3, -2)
    assert (info.input_scale, info.output_scale, info.arena_used, info.arena_size) == (1 / 64, 1 / 128, 1000, 2000)
    assert info.model_id == model_id(MODEL) == model_id(board.engine.model)
    assert info.firmware_commit == firmware_commit()
    observation = np.array([0.5, -0.5, 0, 0, 0, 0], np.float32)
    action = board.ask(messages.Infer(observation))
    assert isinstance(action, messages.Action)
    assert action.input.tolist() == [35, -29, 3, 3, 3, 3]
    assert action.output.tolist() == [35, -29]
    assert action.action.tolist() == [37 / 128, -27 / 128]
    assert board.ask(messages.Tensor(0, 0)) == messages.TensorData(0, 0, len(action.input), action.input)


def test_every_refusal(board: NativeBoard) -> None:
    infer = messages.Infer(np.zeros(N_OBS, np.float32))
    assert error(board, encode(infer, 1)) == (Status.NOT_IDENTIFIED, 0)
    board.hello()
    assert error(board, encode(messages.Tensor(0, 0), 1)) == (Status.NO_INFERENCE_YET, 0)
    assert error(board, encode(messages.Tensor(5, 0), 1)) == (Status.NO_SUCH_OPERATOR, 1)
    assert error(board, encode(messages.SelfTest(), 1)) == (Status.NO_GOLDEN_VECTORS, 0)
    assert error(board, encode(messages.Infer(np.zeros(2, np.float32)), 1)) == (Status.WRONG_COUNT, N_OBS)
    assert error(board, encode(messages.Infer(np.array([0, np.nan, 0, 0, 0, 0])), 1)) == (Status.NON_FINITE, 1)
    assert error(board, seal(infer.TYPE, 1, b"\x01")) == (Status.WRONG_LENGTH, 1)
    assert error(board, seal(0xBB, 1, b"")) == (Status.UNKNOWN_TYPE, 0xBB)
    assert error(board, seal(messages.Echo.TYPE, 1, b"\x01" * 3000)) == (Status.OVERSIZED, messages.MAX_PAYLOAD)


GOLDEN = np.array([[1, 2, 3, 4, 5, 6, 1, 2], [9, 8, 7, 6, 5, 4, 9, 8], [0, 0, 0, 0, 0, 0, 0, 0]], np.int8)


def test_golden_vectors_are_replayed(native_program: Path, tmp_path: Path) -> None:
    with NativeBoard(native_program, "--image", str(image_file(tmp_path / "image", MODEL, GOLDEN))) as board:
        board.ready()
        assert board.hello().n_self_test == 3
        assert board.ask(messages.SelfTest()) == messages.SelfTestResult(Status.OK, 3, 0, 0xFFFF)


def test_an_engine_that_misses_the_golden_vectors_serves_nothing(native_program: Path, tmp_path: Path) -> None:
    wrong = GOLDEN ^ np.array([0] * N_OBS + [1] * N_ACT, np.int8)
    with NativeBoard(native_program, "--image", str(image_file(tmp_path / "image", MODEL, wrong))) as board:
        board.ready()
        info = board.hello()
        assert (info.engine_status, info.engine_detail) == (Status.SELF_TEST_FAILED, 3)
        assert isinstance(board.infer(), messages.Error)


def test_observations_are_normalized_before_they_are_quantized(sanitized_program: Path, tmp_path: Path) -> None:
    by = Normalization(np.arange(N_OBS, dtype=np.float32), np.full(N_OBS, 0.3, np.float32), 0.7)
    path = image_file(tmp_path / "image", MODEL, normalization=by)
    with NativeBoard(sanitized_program, "--image", str(path)) as board:
        board.ready()
        info = board.hello()
        assert (info.model_id, info.normalization_crc) == (model_id(MODEL, by), zlib.crc32(by.to_bytes()))
        observation = np.array([0.1, 2.5, 1.7, 3.4028235e38, -3.4028235e38, 1e-45], np.float32)
        action = board.ask(messages.Infer(observation))
        assert isinstance(action, messages.Action)
        assert np.array_equal(action.input, quantize(by.apply(observation), QuantParams(1 / 64, 3)))
        raw = board.ask(messages.InferInt8(np.arange(N_OBS, dtype=np.int8)))
        assert raw.input.tolist() == list(range(N_OBS)), "raw inputs are not normalized"


def test_reset_reboots_the_process(board: NativeBoard) -> None:
    board.hello()
    board.infer()
    pid = board.process.pid
    board.write(encode(messages.Reset(), 5))
    assert board.ready().reset_cause == 1
    assert board.process.poll() is None
    assert board.process.pid == pid
    assert error(board, encode(messages.Tensor(0, 0), 1)) == (Status.NOT_IDENTIFIED, 0)
    stats = board.ask(messages.StatsRequest())
    assert isinstance(stats, messages.Stats)
    assert stats.inferences == 0
    board.hello()
    assert isinstance(board.infer(), messages.Action)


def test_options_reach_where_they_belong(native_program: Path, model_file: Path) -> None:
    options = ["--image", str(model_file), "--board-name", "bench 3", "--watchdog-ms", "1234", "--arena-bytes", "4096"]
    with NativeBoard(native_program, *options) as board:
        board.ready()
        info = board.hello()
        assert (info.board, info.watchdog_ms, board.engine.arena_bytes) == ("bench 3", 1234, 4096)


def test_watchdog_trips_by_itself(native_program: Path, model_file: Path) -> None:
    with NativeBoard(native_program, "--image", str(model_file), "--watchdog-ms", "1") as board:
        board.ready()
        board.hello()
        board.infer()
        while True:  # asking does not feed it; the session's deadline bounds the loop
            stats = board.ask(messages.StatsRequest())
            assert isinstance(stats, messages.Stats)
            if stats.safe_state:
                break
        assert stats.watchdog_trips == 1


def test_board_without_a_model_still_talks(native_program: Path) -> None:
    with NativeBoard(native_program) as board:
        board.ready()
        info = board.hello()
        assert (info.engine_status, info.model_id, info.n_obs) == (Status.NO_MODEL, "", 0)
        assert error(board, encode(messages.InferInt8(np.zeros(0, np.int8)), 1)) == (Status.NO_MODEL, 0)


@pytest.mark.parametrize("status", [Status.UNSUPPORTED_OPERATOR, Status.ARENA_TOO_SMALL, Status.MODEL_NOT_INT8])
def test_what_the_engine_says_about_the_model_reaches_the_host(native_program: Path, model_file: Path, status: Status) -> None:
    engine = PlayedEngine()
    engine.init_status, engine.init_reply = status, b"what is wrong, in words"
    with NativeBoard(native_program, "--image", str(model_file), engine=engine) as board:
        board.ready()
        info = board.hello()
        assert (info.engine_status, info.engine_detail, info.engine_message) == (status, 1456, "what is wrong, in words")
        assert board.infer() == messages.Error(status, 1456, messages.InferInt8.TYPE)


def test_lost_engine_is_named_and_the_board_goes_on(board: NativeBoard) -> None:
    board.hello()
    board.engine_end.shutdown(socket.SHUT_RDWR)
    assert error(board, encode(messages.InferInt8(np.zeros(N_OBS, np.int8)), 1)) == (Status.ENGINE_LOST, 0)
    assert board.ask(messages.Echo(b"still here")) == messages.EchoReply(b"still here")


def test_engine_that_answers_garbage_is_as_good_as_lost(board: NativeBoard) -> None:
    board.hello()
    board.engine.answers_garbage = True
    assert error(board, encode(messages.InferInt8(np.zeros(N_OBS, np.int8)), 1)) == (Status.ENGINE_LOST, 0)


def test_flood_of_delimiters_and_a_tail_of_a_frame(board: NativeBoard) -> None:
    for _ in range(20):
        board.write(bytes(1000))
    board.write(encode(messages.Echo(b"0123456789"), 1)[9:])
    assert board.ask(messages.Echo(b"x")) == messages.EchoReply(b"x")


def test_host_that_writes_and_never_reads_does_not_lock_the_board_up(board: NativeBoard) -> None:
    burst = encode(messages.Echo(b"a" * 1000), 3)
    os.set_blocking(board.slave, False)
    sent = 0
    while sent < 400 * len(burst):
        _, writable, _ = select.select([], [board.slave], [], DEADLINE_S)
        assert writable, "the board stopped reading"
        sent += os.write(board.slave, burst[sent % len(burst) :])
    board.write(b"\x00")
    board.write(encode(messages.StatsRequest(), 99))
    stats = board.receive_until(99).message
    assert isinstance(stats, messages.Stats)
    assert stats.dropped_replies > 0
    assert stats.requests == 401
    assert board.ask(messages.Echo(b"x")) == messages.EchoReply(b"x")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.lists(st.sampled_from(b"\x00\n\r1,.e-\x81\x87\xff"), max_size=300).map(bytes),
            st.builds(seal, st.integers(0x81, 0x87), st.integers(0, 9), st.binary(max_size=40)),
            st.builds(seal, st.just(messages.Echo.TYPE), st.integers(0, 9), st.binary(min_size=1000, max_size=1100)),
        ),
        max_size=6,
    ),
    seq=st.integers(10, 0xFFFF),
)
def test_no_bytes_kill_it(sanitized_board: NativeBoard, pieces: list[bytes], seq: int) -> None:
    for piece in pieces:
        sanitized_board.write(piece)
    sanitized_board.write(b"\x00" + encode(messages.Echo(b"and now in earnest"), seq))
    assert sanitized_board.receive_until(seq).message == messages.EchoReply(b"and now in earnest")


@pytest.fixture(scope="module")
def sanitized_board(sanitized_program: Path, tmp_path_factory: pytest.TempPathFactory):
    path = image_file(tmp_path_factory.mktemp("model") / "image", MODEL)
    with NativeBoard(sanitized_program, "--image", str(path)) as board:
        board.ready()
        board.hello()
        yield board
        board.write(b"\x00" + encode(messages.Reset(), 1))
        while not isinstance(board.receive().message, messages.Ready):
            pass
        assert board.hello().model_id == model_id(MODEL)


@pytest.mark.parametrize("baud", [9600, 115_200, 921_600])
def test_host_program_of_the_reference_project(board: NativeBoard, baud: int) -> None:
    with serial.Serial(board.port, baud, timeout=DEADLINE_S) as port:
        for first in (0.5, -0.25, 100.0):
            port.write(",".join(str(value) for value in [first, 0.1, 0.0, 0.0, 0.0, 0.0]).encode())
            port.write(b"\n")
            actions = [float(text) for text in port.readline().decode().split(",")]
            # Input 1/64 and 3, output 1/128 and -2, as the played engine says.
            quantized = [min(127, round(first * 64) + 3), round(0.1 * 64) + 3]
            assert actions == [(q + 2) / 128 for q in quantized]


def test_ends_when_the_last_host_hangs_up(native_program: Path, model_file: Path) -> None:
    with NativeBoard(native_program, "--image", str(model_file)) as board:
        board.ready()
        os.close(board.slave)
        assert board.process.wait(DEADLINE_S) == 0


def test_ends_on_sigterm_and_not_on_ctrl_c(board: NativeBoard) -> None:
    board.process.send_signal(signal.SIGINT)
    assert board.ask(messages.Echo(b"x")) == messages.EchoReply(b"x")
    board.process.terminate()
    assert board.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "--fd is missing"),
        (["--fd", "0"], "--engine-fd is missing"),
        (["--fd", "77", "--engine-fd", "78"], "--fd 77 is not an open descriptor"),
        (["--fd", "x"], "--fd takes a number"),
        (["--fd", "-1"], "--fd takes a number"),
        (["--fd", "0", "--engine-fd", "0", "--engine", "abacus"], "no such engine: abacus"),
        (["--fd", "0", "--engine-fd", "0", "--image", "/nowhere/x.tflite"], "cannot read /nowhere/x.tflite"),
        (["--fd", "0", "stray"], "unexpected argument: stray"),
        (["--speed", "9"], "unrecognized option"),
    ],
)
def test_wrong_options_are_named(native_program: Path, options: list[str], complaint: str) -> None:
    done = subprocess.run(
        [native_program, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.parametrize("cut", [0, 1, 20, 60, 100])
def test_an_image_that_is_cut_off_is_refused(native_program: Path, tmp_path: Path, cut: int) -> None:
    path = image_file(tmp_path / "image", MODEL, GOLDEN)
    path.write_bytes(path.read_bytes()[:cut])
    with NativeBoard(native_program, "--image", str(path)) as board:
        assert board.process.wait(DEADLINE_S) == 2
        assert f"error: {path}".encode() in board.process.stderr.read()


def test_an_image_for_a_model_of_another_size_serves_nothing(native_program: Path, tmp_path: Path) -> None:
    by = Normalization(np.zeros(N_OBS + 1), np.ones(N_OBS + 1), 1.0)
    with NativeBoard(native_program, "--image", str(image_file(tmp_path / "image", MODEL, normalization=by))) as board:
        board.ready()
        info = board.hello()
        assert (info.engine_status, info.engine_detail) == (Status.OTHER_MODEL, N_OBS << 16 | N_ACT)


def test_a_board_without_memory_for_uploads_says_so(sanitized_program: Path, model_file: Path) -> None:
    with NativeBoard(sanitized_program, "--image", str(model_file), "--upload-bytes", "0") as board:
        board.ready()
        assert board.hello().upload_size == 0
        refused = board.ask(messages.LoadBegin(1, 100, 0, 1, N_OBS, N_ACT, 0, "0" * 12, 0))
        assert refused == messages.Error(Status.NO_ROOM, 0, messages.LoadBegin.TYPE)


def test_a_model_goes_through_to_the_engine_and_takes_over(sanitized_program: Path, model_file: Path) -> None:
    """With sanitizers on; the engine is the test's own, which accepts everything."""
    model, vector = b"another model", np.arange(N_OBS, dtype=np.int8)
    data = model + vector.tobytes() + vector[:N_ACT].tobytes()
    name = hashlib.sha256(model).hexdigest()[:12]
    with NativeBoard(sanitized_program, "--image", str(model_file)) as board:
        board.ready()
        first = board.hello()
        assert board.ask(
            messages.LoadBegin(9, len(model), 0, 1, N_OBS, N_ACT, zlib.crc32(data), name, 0)
        ) == messages.LoadProgress(9, 0)
        assert board.ask(messages.LoadData(9, 0, data)) == messages.LoadProgress(9, len(data))
        assert board.engine.model == MODEL, "nothing is loaded before the upload is whole"
        while (result := board.ask(messages.LoadCommit(9))).status == Status.VERIFYING:
            # On a busy computer the verification may end in between: the new model then requires a HELLO.
            refused = board.ask(messages.Infer(np.zeros(N_OBS, np.float32)))
            assert refused.status in (Status.VERIFYING, Status.NOT_IDENTIFIED)
        assert result == messages.LoadResult(9, Status.OK, 0, "")
        assert board.engine.model == model
        info = board.hello()
        assert (info.model_id, info.uploaded, info.n_self_test) == (name, 1, 1)
        board.write(encode(messages.Reset(), 3))
        assert board.ready().reset_cause == 1
        assert board.hello().model_id == first.model_id
