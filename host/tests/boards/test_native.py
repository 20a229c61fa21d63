import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serial

from balance_hil.boards import Board, connect
from balance_hil.boards.kinds import native
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.native import NativeMachine
from balance_hil.bundle import model_id
from balance_hil.envs import balance as envs
from balance_hil.errors import (
    ArenaTooSmallError,
    BoardBootError,
    BoardStatusError,
    BundleError,
    CableUnpluggedError,
    MissingExtraError,
    ModelMismatchError,
    ReplyTimeoutError,
    UsageError,
)
from balance_hil.link import Fault
from balance_hil.model_image import SELF_TEST_ROWS, ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Status
from balance_hil.runtimes import load_runtime

DEADLINE_S = 60.0
PATIENCE_S = 10.0  # the reference waits for one second

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the native board needs Linux")
pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")


@pytest.fixture(scope="module")
def board(ppo_bundle):
    with connect("native", ppo_bundle) as board:
        yield board


def gone(pid):
    """Waits until the process has ended; orphans are reaped by init, which may leave a zombie where there is none."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def keep_asking(board):
    for _ in range(10_000):
        board.infer_raw(np.zeros(6, np.int8))


def processes(board):
    return [process.pid for process in board._machine._processes]


def test_identity(board, ppo_bundle):
    assert board.info.board == "native"
    assert board.info.engine == "tflm"
    assert board.info.model_id == ppo_bundle.id
    assert board.info.n_self_test == SELF_TEST_ROWS
    assert board.unexpected_frames == 0


@pytest.mark.parametrize(
    ("name", "cycles_per_us"),
    [("native", None), ("qemu-m7", None), ("f405", None), ("pico", 125.0), ("teensy41", 125.0), ("new", None)],
)
def test_cycles_mean_something_only_where_the_boards_times_are_its_processors(board, name, cycles_per_us, monkeypatch):
    monkeypatch.setattr(board, "info", replace(board.info, board=name, clock_hz=125_000_000))
    assert board.cycles_per_us == cycles_per_us


def test_a_board_without_a_boot_loader_says_so_and_goes_on(board):
    with pytest.raises(BoardStatusError, match="refused EnterBootloader: not_supported"):
        board.enter_bootloader()
    assert board.echo(b"still here") == b"still here"


def test_actions_are_those_of_the_golden_vectors(board, ppo_bundle):
    golden = np.load(ppo_bundle.file("golden.npz"))
    replies = board.infer_batch(golden["observations"][:200])
    assert np.array_equal(np.stack([reply.input for reply in replies]), golden["input_int8"][:200])
    assert np.array_equal(np.stack([reply.output for reply in replies]), golden["output_int8"][:200])
    assert np.array_equal(np.stack([reply.action for reply in replies]), golden["actions"][:200])


def test_layers_are_those_of_the_golden_vectors(board, ppo_bundle):
    golden = np.load(ppo_bundle.file("golden.npz"))
    layers = board.layers_raw_batch(golden["input_int8"][:20])
    assert [layer.operator for layer in layers] == [str(name) for name in golden["operators"]]
    for layer in layers:
        assert np.array_equal(layer.values, golden[f"op_{layer.op}"][:20])


def test_runtime_equals_tflm(board, ppo_bundle):
    rows = np.random.default_rng(3).uniform(-1, 1, (500, 6)).astype(np.float32)
    with load_runtime("tflm", ppo_bundle) as tflm:
        assert np.array_equal(board.as_runtime().act_batch(rows), tflm.act_batch(rows))


def test_self_test_and_reset(board):
    assert (board.self_test().count, board.self_test().mismatches) == (8, 0)
    board.stats()
    board.reset()
    assert board.stats().inferences == 0
    assert (board.self_test().count, board.self_test().mismatches) == (8, 0)


def test_power_cycle(ppo_bundle):
    with connect("native", ppo_bundle) as board:
        board.infer_raw(np.zeros(6, np.int8))
        before = processes(board)
        board.power_cycle()
        assert board.stats().inferences == 0
        assert all(gone(pid) for pid in before)
        after = processes(board)
    assert all(gone(pid) for pid in after)


def test_a_board_that_dies_is_reported_with_its_status(ppo_bundle):
    with connect("native", ppo_bundle) as board:
        firmware, engine_host = processes(board)
        os.kill(firmware, signal.SIGKILL)
        with pytest.raises(CableUnpluggedError, match="the emulated board native ended: killed by signal 9"):
            keep_asking(board)
        assert gone(engine_host)


def test_a_board_that_hangs_is_reported_and_ended_all_the_same(ppo_bundle):
    with connect("native", ppo_bundle) as board:
        pids = processes(board)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ReplyTimeoutError, match="did not answer Echo"):
            board.request(messages.Echo(b"?"), timeout_s=0.05)
    assert all(gone(pid) for pid in pids)
    board.close()


def test_an_engine_that_dies_is_reported_by_the_board(ppo_bundle):
    with connect("native", ppo_bundle) as board:
        os.kill(processes(board)[1], signal.SIGKILL)
        with pytest.raises(BoardStatusError) as caught:
            keep_asking(board)
        assert caught.value.status == "engine_lost"


def test_a_host_that_is_killed_leaves_no_process_behind(ppo_bundle):
    program = (
        "import sys, time\n"
        "from balance_hil.boards import connect\n"
        "from balance_hil.bundle import Bundle\n"
        f"board = connect('native', Bundle.load({str(ppo_bundle.path)!r}))\n"
        "print(*[p.pid for p in board._machine._processes], flush=True)\n"
        "sys.stdin.read()\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pids = [int(word) for word in host.stdout.readline().split()]
    assert len(pids) == 2
    host.kill()
    host.communicate(timeout=DEADLINE_S)
    assert all(gone(pid) for pid in pids)


def test_a_stale_model_is_refused(ppo_bundle, tmp_path):
    stale = bytearray(ppo_bundle.model())
    stale[-1] ^= 1
    path = tmp_path / "stale.tflite"
    path.write_bytes(stale)
    with pytest.raises(
        ModelMismatchError, match=f"runs policy {model_id(bytes(stale))}, this run needs {ppo_bundle.id}"
    ) as caught:
        connect("native", ppo_bundle, model=path)
    assert f"hil emulate {ppo_bundle.path} --board native" in caught.value.hint


def test_a_model_that_is_none(ppo_bundle, tmp_path):
    path = tmp_path / "noise.tflite"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(BundleError, match="not a TensorFlow Lite model"):
        connect("native", model=path)
    image = ModelImage(model=path.read_bytes())
    machine = NativeMachine(EmulationConfig(image=image))
    with pytest.raises(BoardStatusError, match="has no usable model") as caught:
        Board(machine.start(), replace(ppo_bundle, id=image.id), machine=machine)
    assert caught.value.status == "model_invalid"


def test_a_board_without_a_model_still_talks(ppo_bundle):
    with connect("native") as board:
        assert board.info.engine_status == Status.NO_MODEL
        assert board.echo(b"hello") == b"hello"
        with pytest.raises(BoardStatusError, match="no_model"):
            board.infer(np.zeros(6, np.float32))


def test_an_arena_that_is_too_small(ppo_bundle):
    machine = NativeMachine(EmulationConfig(image=ModelImage.of(ppo_bundle), arena_bytes=512))
    with pytest.raises(ArenaTooSmallError, match=r"the model needs \d+ bytes, the arena has 512") as caught:
        Board(machine.start(), ppo_bundle, machine=machine)
    assert caught.value.needed_bytes > 512


def test_a_board_that_cannot_start(ppo_bundle, tmp_path, monkeypatch):
    broken = tmp_path / "program"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(native, "build_native", lambda progress: broken)
    with pytest.raises(BoardBootError, match="exit status 3; last output: out of luck") as caught:
        connect("native", ppo_bundle)
    assert "hil doctor" in caught.value.hint


def test_options_that_cannot_be(ppo_bundle, monkeypatch):
    with pytest.raises(UsageError, match="no engine 'abacus'") as caught:
        connect("native", ppo_bundle, engine="abacus")
    assert "tflm" in caught.value.hint

    def refuse(module, extra):
        raise MissingExtraError(module, extra)

    monkeypatch.setattr(native, "require", refuse)
    with pytest.raises(MissingExtraError):
        connect("native", ppo_bundle)


def test_faults_on_the_way_to_a_real_board(ppo_bundle):
    with connect("native", ppo_bundle, faults=[Fault("corrupt", {"rate": 1.0}, "tx")]) as board:
        board.send_raw(b"\x00")
        for _ in range(20):
            board.send_raw(b"\x07\xc0abc\x00")
        assert board.injected_faults["corrupt tx"] >= 20


@pytest.mark.parametrize(("baud", "steps"), [(115_200, 400), (9600, 20), (1_000_000, 20)])
def test_the_reference_projects_host_program_drives_the_board_unchanged(ppo_bundle, baud, steps):
    env = envs.make("balance/Balance-v0")
    machine = NativeMachine(EmulationConfig(image=ModelImage.of(ppo_bundle)))
    with contextlib.closing(machine), contextlib.closing(env), load_runtime("tflm", ppo_bundle) as tflm:
        port = machine.start_unopened()
        with serial.Serial(port, baud, timeout=PATIENCE_S) as ser:
            obs, _ = env.reset(seed=10_000)
            for step in range(steps):
                ser.write(",".join(str(value) for value in obs).encode())
                ser.write(b"\n")
                line = ser.readline().decode().strip()
                action = np.array([float(text) for text in line.split(",")], np.float32)
                assert np.allclose(action, tflm.act(obs), atol=1e-6), line
                obs, _, terminated, _, _ = env.step(action)
                assert not terminated, f"fell at step {step}"
        with serial.Serial(port, baud, timeout=PATIENCE_S) as second_program:
            second_program.write(b"0.1,0,0,0,0,0\n")
            assert len(second_program.readline().decode().strip().split(",")) == 2
