"""Boards on emulated processors: built, started, reset, stopped, and gone whatever happens."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from balance_hil import firmware_build
from balance_hil.boards import Board, connect, find_definition
from balance_hil.boards.kinds import emulated, qemu
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.qemu import QemuMachine
from balance_hil.bundle import Bundle
from balance_hil.errors import (
    BoardBootError,
    CableUnpluggedError,
    EmulatorMissingError,
    FlashToolMissingError,
    HarnessError,
    ModelMismatchError,
    PortBusyError,
    ReplyTimeoutError,
    UsageError,
)
from balance_hil.link import open_link
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Frame
from balance_hil.testing.synthetic_models import actor

DEADLINE_S = 60.0
NAME = "qemu-m4"


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    try:
        qemu.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")


@pytest.fixture
def board(ppo_bundle: Bundle) -> Iterator[Board]:
    with connect(NAME, ppo_bundle) as board:
        yield board


def process_of(board: Board) -> int:
    return int(board._machine._processes[0].pid)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_the_processor_and_the_uart_share_a_core(board: Board):
    """Every byte goes from one thread of QEMU to another; a third, started before them, may run anywhere."""
    process = process_of(board)
    (core,) = os.sched_getaffinity(process)
    cores = [os.sched_getaffinity(int(thread.name)) for thread in Path(f"/proc/{process}/task").iterdir()]
    assert cores.count({core}) >= len(cores) - 1 >= 2


def keep_asking(board: Board) -> None:
    for _ in range(10_000):
        board.infer_raw(np.zeros(6, np.int8))


@pytest.mark.parametrize(("name", "processor"), [("qemu-m3", "cortex-m3"), ("qemu-m7", "cortex-m7"), ("qemu-m55", "cortex-m55")])
def test_every_processor_answers_with_the_golden_vectors(ppo_bundle: Bundle, name: str, processor: str):
    with connect(name, ppo_bundle) as board:
        assert (board.info.board, board.info.processor, board.info.engine) == (name, processor, "int8")
        assert (board.self_test().count, board.self_test().mismatches) == (8, 0)
        pid = process_of(board)
    assert gone(pid)


@pytest.mark.timeout(1800)  # the library is compiled, too
@pytest.mark.skipif(
    not os.environ.get("HIL_TFLM_LIB"), reason="HIL_TFLM_LIB is not set: docs/boards.md says how to get TFLM's library"
)
def test_the_users_tflm_runs_the_same_policy(ppo_bundle: Bundle):
    with connect(NAME, ppo_bundle, engine="tflm") as board:
        assert board.info.engine == "tflm"
        assert (board.self_test().count, board.self_test().mismatches) == (8, 0)


def test_identity_says_what_the_image_takes(board: Board, ppo_bundle: Bundle):
    info = board.info
    assert (info.model_id, info.clock_hz, info.n_self_test) == (ppo_bundle.id, 25_000_000, 8)
    assert 0 < info.arena_used < info.arena_size < info.ram
    assert len(ppo_bundle.model()) < info.flash < 64_000
    board.infer_raw(np.zeros(6, np.int8))
    assert 200 < board.stats().stack < 16_384


def test_reset_button(board: Board):
    board.infer_raw(np.zeros(6, np.int8))
    board.press_reset()
    assert board.stats().inferences == 0


def test_reset_button_ends_a_hang(board: Board):
    board.pause()
    with pytest.raises(ReplyTimeoutError):
        board.request(messages.Echo(b"?"), timeout_s=0.05)
    board._machine.press_reset()
    board.resume()
    board.identify()
    assert board.echo(b"back") == b"back"


def test_what_was_sent_to_a_hung_board_is_answered_when_it_goes_on(board: Board):
    board.pause()
    seq = board.send(messages.Echo(b"late"))
    assert board.poll(0.05) is None
    board.resume()
    frame = board.poll(DEADLINE_S)
    assert frame is not None
    assert (frame.seq, frame.message) == (seq, messages.EchoReply(b"late"))


def test_power_cycle(board: Board):
    board.infer_raw(np.zeros(6, np.int8))
    before = process_of(board)
    board.power_cycle()
    assert gone(before)
    assert board.stats().inferences == 0


def test_watchdog_time_is_given_at_the_start_and_survives_a_reset(ppo_bundle: Bundle):
    with connect(NAME, ppo_bundle, watchdog_ms=777) as board:
        assert board.info.watchdog_ms == 777
        assert board.press_reset().watchdog_ms == 777


def test_the_clock_of_a_microcontroller_keeps_time_while_its_emulator_gets_no_processor(ppo_bundle: Bundle):
    with connect("f405", ppo_bundle, engine="int8") as board:
        asked_s = time.monotonic()
        before_ms = board.stats().uptime_ms
        answered_s = time.monotonic()
        os.kill(process_of(board), signal.SIGSTOP)
        time.sleep(0.05)  # 50 of its ticks
        os.kill(process_of(board), signal.SIGCONT)
        least_s = time.monotonic() - answered_s
        passed_ms = board.stats().uptime_ms - before_ms
        most_s = time.monotonic() - asked_s
    assert 1000 * least_s - 1 <= passed_ms <= 1000 * most_s + 1


def test_many_requests_in_flight_lose_nothing(board: Board):
    inputs = np.random.default_rng(0).integers(-128, 128, (1000, 6), dtype=np.int8)
    replies = board.infer_raw_batch(inputs)
    assert all(np.array_equal(reply.input, row) for reply, row in zip(replies, inputs, strict=True))
    assert board.stats().dropped_replies == 0


def test_ten_times_the_receive_buffer_at_once_loses_nothing(board: Board):
    """The board holds its sender back and goes on where it stopped."""
    sent = [board.send(messages.Echo(bytes([i]) * 1000)) for i in range(40)]
    for i, seq in enumerate(sent):
        frame = board.poll(DEADLINE_S)
        assert frame is not None
        assert (frame.seq, frame.message) == (seq, messages.EchoReply(bytes([i]) * 1000))
    assert board.stats().overruns == 0


def test_a_host_that_does_not_read_costs_replies_and_not_the_board(board: Board):
    """Its receive buffer runs full while it waits to be rid of its replies."""
    for end in (*board.link._waits_on, *board.link._writes_to):
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    for _ in range(24):
        board.send(messages.Echo(b"?" * 1000))
    replies = 0
    while isinstance(frame := board.poll(2.0), Frame):
        replies += isinstance(frame.message, messages.EchoReply)
    stats = board.stats()
    assert stats.dropped_replies == 24 - replies > 0
    assert (stats.overruns, stats.crc_errors) == (0, 0)


def test_a_board_that_dies_is_reported_with_its_status(board: Board):
    os.kill(process_of(board), signal.SIGKILL)
    with pytest.raises(CableUnpluggedError, match="the emulated board qemu-m4 ended: killed by signal 9"):
        keep_asking(board)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_host_that_is_killed_leaves_no_process_behind(ppo_bundle: Bundle, how: signal.Signals):
    program = (
        "import sys, time\n"
        "from balance_hil.boards import connect\n"
        "from balance_hil.bundle import Bundle\n"
        f"board = connect({NAME!r}, Bundle.load({str(ppo_bundle.path)!r}))\n"
        "print(*board.process_ids, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pids = [int(pid) for pid in host.stdout.readline().split()]
        host.send_signal(how)
    assert len(pids) == 1
    assert all(gone(pid) for pid in pids)


def test_an_exception_ends_the_board(ppo_bundle: Bundle):
    pids: list[int] = []
    with pytest.raises(RuntimeError, match="on purpose"), connect(NAME, ppo_bundle) as board:  # noqa: PT012
        pids += board.process_ids
        raise RuntimeError("on purpose")
    assert len(pids) == 1
    assert gone(pids[0])


def test_another_model_than_the_bundle_says_is_refused(ppo_bundle: Bundle, tmp_path: Path):
    other = tmp_path / "other.tflite"
    other.write_bytes(actor((6, 64, 64, 2), "TANH", per_channel=True, seed=7, squash=None))
    with pytest.raises(ModelMismatchError, match=f"this run needs {ppo_bundle.id}"):
        connect(NAME, ppo_bundle, model=other)


def test_other_programs_reach_it_by_a_url(ppo_bundle: Bundle):
    definition = find_definition(NAME)
    machine = QemuMachine(definition, EmulationConfig(image=ModelImage.of(ppo_bundle), name=NAME, engine="int8"))
    try:
        port = machine.start_unopened()
        for _ in range(2):  # one after the other
            with connect("serial", ppo_bundle, port=port) as board:
                assert board.info.board == NAME
    finally:
        machine.close()
        machine.close()


def test_a_second_client_is_refused_at_once(ppo_bundle: Bundle):
    machine = QemuMachine(find_definition(NAME), EmulationConfig(image=ModelImage.of(ppo_bundle), name=NAME, engine="int8"))
    said: list[str] = []
    try:
        port = machine.start_unopened()
        waiting = threading.Thread(target=lambda: machine.wait(said.append))
        waiting.start()
        with connect("serial", ppo_bundle, port=port) as board:
            for _ in range(2):
                with pytest.raises(PortBusyError, match="is busy; its server says 'busy: this board serves one program"):
                    Board(open_link(port))  # without a reservation, like a program of somebody else
            assert board.echo(b"still here") == b"still here"
        with connect("serial", ppo_bundle, port=port) as board:
            assert board.echo(b"free again") == b"free again"
        os.kill(machine.process_ids()[0], signal.SIGTERM)
        waiting.join()
    finally:
        machine.close()
    assert len(said) == 2
    assert said[0].startswith("refused a second client, 127.0.0.1:")


@pytest.mark.parametrize("ends", [True, False])
def test_qemu_that_ends_while_a_second_client_waits(monkeypatch: pytest.MonkeyPatch, ends: bool):
    """Its control socket ends first. That of a QEMU that goes on is an error."""
    monkeypatch.setattr(qemu, "END_S", 1.0 if ends else 0.0)
    machine = object.__new__(QemuMachine)
    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()), ours:
        theirs.close()
        machine._server, machine._qmp = server, qemu.Qmp(ours)
        process = subprocess.Popen(["sleep", "0" if ends else "60"])
        machine._processes = [process]
        monkeypatch.setattr(machine, "exit_report", lambda: "it ended", raising=False)
        monkeypatch.setattr(process, "poll", lambda polls=[]: polls.append(0) if len(polls) < 1 else type(process).poll(process))
        try:
            if ends:
                assert machine.wait(print) == "it ended"
            else:
                with pytest.raises(CableUnpluggedError, match="QEMU did not execute"):
                    machine.wait(print)
        finally:
            process.kill()
            process.wait()


def test_a_machine_that_qemu_does_not_know_is_an_error_with_its_words(ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emulated, "BOOT_TIMEOUT_S", math.inf)  # nobody waits for a process that has ended
    definition = replace(find_definition(NAME), settings={"machine": "mps2-an999"})
    machine = QemuMachine(definition, EmulationConfig(image=ModelImage.of(ppo_bundle), name=NAME, engine="int8"))
    try:
        with pytest.raises(BoardBootError, match="unsupported machine type"):
            machine.start_unopened()
    finally:
        machine.close()


def test_what_makes_no_sense_is_refused_before_anything_is_built(ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="has no engine 'steam'"):
        connect(NAME, ppo_bundle, engine="steam")
    monkeypatch.delenv("HIL_TFLM_LIB", raising=False)
    with pytest.raises(FlashToolMissingError, match="HIL_TFLM_LIB is not set"):
        connect(NAME, ppo_bundle, engine="tflm")
    with pytest.raises(UsageError, match="needs a model"):
        connect(NAME)


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(qemu, "QEMU", "qemu-system-none")
    with pytest.raises(EmulatorMissingError, match="qemu-system-none"):
        qemu.check_installation()
    monkeypatch.setattr(qemu, "QEMU", "sh")
    monkeypatch.setattr(firmware_build, "_CROSS_HEADER", "none.specs")
    with pytest.raises(FlashToolMissingError, match="newlib"):
        qemu.check_installation()
    monkeypatch.setattr(firmware_build, "_CROSS_COMPILER", "arm-none-eabi-none")
    with pytest.raises(FlashToolMissingError, match="arm-none-eabi-none"):
        qemu.check_installation()
