import contextlib
import select
import socket
import threading
import time
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.handshake import BUSY_LINE, identify
from balance_hil.errors import (
    ArenaTooSmallError,
    BoardStatusError,
    CableUnpluggedError,
    ElementTypeError,
    ModelMismatchError,
    NotOurFirmwareError,
    PortBusyError,
    ProtocolMismatchError,
    ReplyTimeoutError,
    SilentBoardError,
    UnsupportedOperatorError,
    WrongBaudError,
)
from balance_hil.link import open_link
from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode, seal
from balance_hil.protocol.messages import Status
from balance_hil.testing.fake_board import FakeFirmware, FakeLink, fake_board, fake_info, linear_policy

GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]
PATIENCE_S = 0.05


class ScriptedLink:
    """A far end that says the same thing every time it is spoken to."""

    description = "/dev/ttyFAKE0"

    def __init__(self, answer):
        self.answer = answer
        self.incoming = deque()
        self.closed = False

    def write(self, data):
        if self.answer:
            self.incoming.append(self.answer)

    def read(self, timeout_s):
        if self.incoming:
            return self.incoming.popleft()
        time.sleep(max(timeout_s, 0))
        return b""

    def close(self):
        self.closed = True


def firmware(bundle, **changes):
    return FakeFirmware(replace(fake_info(bundle), **changes), linear_policy(GAINS, bundle))


def refused(answer, baud=115_200):
    link = ScriptedLink(answer)
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the callers look at its type
        Board(link, baud=baud, handshake_timeout_s=PATIENCE_S)
    assert link.closed
    return caught.value


def test_a_good_board_identifies_itself(linear_bundle):
    with fake_board(firmware(linear_bundle), linear_bundle) as board:
        assert board.info.model_id == linear_bundle.id
        assert board.info.board == "fake"
        assert board.input_quant == linear_bundle.input_quant
        assert board.port == "fake"


def test_silent_board():
    error = refused(b"")
    assert type(error) is SilentBoardError
    assert "no byte received" in error.message
    assert "hil boards" in error.hint


def test_a_second_user_of_a_socket_board_is_told_that_it_may_be_busy():
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:  # QEMU, too, accepts one connection and lets others wait
        link = open_link(f"socket://127.0.0.1:{server.getsockname()[1]}")
        with contextlib.closing(link), pytest.raises(SilentBoardError, match="may be busy with another program") as caught:
            identify(Channel(link), timeout_s=0.05)
    assert "one program at a time" in caught.value.hint


def test_wrong_baud():
    noise = np.random.default_rng(1).integers(0x80, 0x100, 200, dtype=np.uint8).tobytes()
    error = refused(noise, baud=9600)
    assert type(error) is WrongBaudError
    assert "at 9600 baud and none can be decoded" in error.message
    assert "--baud" in error.hint


@contextlib.contextmanager
def server_that(serve):
    """A server on loopback that calls ``serve(connection)`` for its first client and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            connection, _ = server.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        link = open_link(f"socket://127.0.0.1:{server.getsockname()[1]}")
        try:
            yield link
        finally:
            link.close()
            thread.join()


def hears_hello_and_says(line):
    def serve(connection):
        connection.recv(1)
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    return serve


@pytest.mark.parametrize("line", [BUSY_LINE.format("127.0.0.1:4711").encode(), b"Port already in use\r\n"])
def test_a_server_that_says_busy_is_busy(line):
    with server_that(hears_hello_and_says(line)) as link, pytest.raises(PortBusyError) as caught:
        Board(link)
    assert f"{link.description} is busy; its server says {line.decode().strip()!r}" in caught.value.message
    assert "close the other program" in caught.value.hint


def test_a_server_that_says_busy_and_closes_before_it_hears_anything():
    with server_that(lambda connection: connection.sendall(b"Port already in use\r\n")) as link:
        select.select([], [], [], 0.1)  # so that HELLO meets a closed connection
        with pytest.raises(PortBusyError):
            Board(link)


@pytest.mark.parametrize("serve", [lambda connection: None, lambda connection: connection.recv(1), hears_hello_and_says(b"")])
def test_a_foreign_server_that_closes_at_once(serve):
    with server_that(serve) as link, pytest.raises(CableUnpluggedError, match="closed the connection before a board answered"):
        Board(link)


def test_a_foreign_server_that_says_something_else():
    answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"
    with server_that(hears_hello_and_says(answer)) as link, pytest.raises(NotOurFirmwareError) as caught:
        Board(link)
    assert "its server says 'Connection: close' and closed the connection" in caught.value.message


@pytest.mark.parametrize("where", ["socket://127.0.0.1:9", "/dev/pts/77"])
def test_garbage_where_there_is_no_baud_rate(where):
    link = ScriptedLink(np.random.default_rng(1).integers(0x80, 0x100, 200, dtype=np.uint8).tobytes())
    link.description = where
    with pytest.raises(NotOurFirmwareError, match="neither frames nor text"):
        Board(link, handshake_timeout_s=PATIENCE_S)


def test_garbage_before_the_boot_does_no_harm(linear_bundle):
    link = FakeLink(firmware(linear_bundle))
    link._held.appendleft((0.0, np.random.default_rng(1).bytes(5000)))  # a boot loader at another baud rate
    with Board(link, linear_bundle) as board:
        assert board.info.board == "fake"


class SlowLink(FakeLink):
    """Delivers one byte at a time, and only the first ``most``."""

    def __init__(self, board, pause_s, most=1 << 30):
        super().__init__(board)
        self._pause_s, self._most, self._left = pause_s, most, b""
        self._held.clear()

    def read(self, timeout_s):
        self._left = self._left or super().read(timeout_s)
        if not self._left or self._most == 0:
            return b""
        time.sleep(self._pause_s)
        self._most -= 1
        byte, self._left = self._left[:1], self._left[1:]
        return byte


def test_a_board_that_sends_slowly_is_waited_for(linear_bundle):
    with Board(SlowLink(firmware(linear_bundle), 0.004), linear_bundle, handshake_timeout_s=0.2) as board:
        assert board.info.board == "fake"


def test_a_board_that_sends_too_slowly_is_not_at_another_baud_rate(linear_bundle):
    with pytest.raises(ReplyTimeoutError, match="answers too slowly"):
        Board(SlowLink(firmware(linear_bundle), 0.0, 60), linear_bundle, handshake_timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("banner", "quoted"),
    [
        (b"MicroPython v1.23 on 2024-06-02; Teensy 4.1\r\n>>> ", ">>>"),
        (b"ets Jul 29 2019 12:21:46\r\nrst:0x1 (POWERON_RESET)\r\n", "rst:0x1 (POWERON_RESET)"),
        (b"error: malformed_line\n", "error: malformed_line"),
    ],
)
def test_not_our_firmware_quotes_what_it_says(banner, quoted):
    error = refused(banner)
    assert type(error) is NotOurFirmwareError
    assert repr(quoted) in error.message


def test_another_protocol_version():
    error = refused(seal(messages.Ready.TYPE, 0, messages.Ready(7, 0x1234, 0).pack() + b"new fields"))
    assert type(error) is ProtocolMismatchError
    assert f"uses protocol 7, this program uses {messages.PROTOCOL_VERSION}" in error.message


def test_a_board_of_version_1_is_named():
    """INFO as version 1 sent it, on the CRC of its schema."""
    tail = bytes([4]) + b"abcd" + bytes(40)
    error = refused(seal(messages.Info.TYPE, 1, (1).to_bytes(2, "little") + (0x3BE122F7).to_bytes(4, "little") + tail))
    assert type(error) is ProtocolMismatchError
    assert f"uses protocol 1, this program uses {messages.PROTOCOL_VERSION}" in error.message
    assert "hil flash" in error.hint


def test_another_schema():
    error = refused(seal(messages.Info.TYPE, 1, messages.Ready(messages.PROTOCOL_VERSION, 0xABCD1234, 0).pack()))
    assert type(error) is ProtocolMismatchError
    assert "abcd1234" in error.message
    assert f"{messages.SCHEMA_CRC:08x}" in error.message


def test_an_answer_to_somebody_elses_hello_does_not_count(linear_bundle):
    error = refused(encode(replace(fake_info(linear_bundle), nonce=12345), 1))
    assert type(error) is ReplyTimeoutError
    assert "did not answer the handshake" in error.message


def test_stale_model_names_both_and_the_remedy(linear_bundle):
    with pytest.raises(ModelMismatchError, match="runs policy 9f2c1a000000, this run needs 0123456789ab") as caught:
        fake_board(firmware(linear_bundle, model_id="9f2c1a000000"), linear_bundle)
    assert "hil flash models/linear --board" in caught.value.hint
    native = BoardDefinition(name="native", kind="native")
    with pytest.raises(ModelMismatchError) as caught:
        Board(FakeLink(firmware(linear_bundle, model_id="9f2c1a000000")), linear_bundle, definition=native)
    assert "hil emulate models/linear --board native" in caught.value.hint


@pytest.mark.parametrize("change", [{"n_obs": 4}, {"input_scale": 0.5}, {"output_zero_point": 3}])
def test_right_model_with_other_tables(linear_bundle, change):
    with pytest.raises(ModelMismatchError, match="reports other sizes, scales"):
        fake_board(firmware(linear_bundle, **change), linear_bundle)


@pytest.mark.parametrize(
    ("status", "detail", "message", "error", "text"),
    [
        (Status.UNSUPPORTED_OPERATOR, 0, "the operator EXP", UnsupportedOperatorError, "EXP"),
        (Status.ARENA_TOO_SMALL, 2592, "", ArenaTooSmallError, "needs 2592 bytes, the arena has 2048"),
        (Status.MODEL_NOT_INT8, 0, "input is float32", ElementTypeError, "input is float32"),
        (Status.NO_MODEL, 0, "", BoardStatusError, "no_model"),
        (Status.ENGINE_LOST, 3, "gone", BoardStatusError, "engine_lost"),
        (99, 3, "", BoardStatusError, "status_99"),
    ],
)
def test_an_engine_that_refuses_the_model(linear_bundle, status, detail, message, error, text):
    board = firmware(
        linear_bundle, engine_status=status, engine_detail=detail, engine_message=message, model_id="", arena_size=2048
    )
    with pytest.raises(error, match=text) as caught:
        fake_board(board, linear_bundle)
    assert caught.value.hint


@pytest.mark.parametrize(("engine", "named"), [("tflm", True), ("int8", False)])
def test_memory_that_a_kernel_of_tflm_may_have_refused(linear_bundle, engine, named):
    board = firmware(linear_bundle, engine=engine, engine_status=Status.ARENA_TOO_SMALL, model_id="")
    with pytest.raises(ArenaTooSmallError) as caught:
        fake_board(board, linear_bundle)
    assert ("hil export --per-tensor" in caught.value.hint) is named


def test_without_a_bundle_the_board_is_taken_as_it_is(linear_bundle):
    with fake_board(firmware(linear_bundle, model_id="", engine_status=Status.NO_MODEL)) as board:
        assert board.info.engine_status == Status.NO_MODEL


def test_a_board_that_boots_late_is_identified(linear_bundle):
    class LateLink(FakeLink):
        asleep = True

        def write(self, data):
            if self.asleep:  # what is said to a board that boots is lost; its READY comes afterwards
                self.asleep = False
                return
            super().write(data)

    late = LateLink(firmware(linear_bundle))
    assert Board(late, linear_bundle, handshake_timeout_s=5.0).info.board == "fake"


class BootingLink(FakeLink):
    """Prints a line at every look for a while and answers nothing; then it boots."""

    def __init__(self, board, seconds):
        self.until = time.monotonic() + seconds
        self.lines = 0
        super().__init__(board)
        self._held.clear()

    def write(self, data):
        if time.monotonic() > self.until:
            super().write(data)

    def read(self, timeout_s):
        if time.monotonic() > self.until:
            return super().read(timeout_s)
        self.lines += 1
        time.sleep(max(0.0, min(timeout_s, PATIENCE_S / 10)))
        return b"I (%d) boot: loading segment\r\n" % self.lines


def test_a_board_that_prints_a_boot_log_is_waited_for(linear_bundle):
    link = BootingLink(firmware(linear_bundle), 1.0)
    with Board(link, linear_bundle, handshake_timeout_s=0.5) as board:
        assert board.info.board == "fake"
    assert link.lines > 1


def test_a_board_that_prints_for_ever_is_not(linear_bundle):
    link = BootingLink(firmware(linear_bundle), 1e9)
    with pytest.raises(NotOurFirmwareError, match=r"in 0\.\d+ s it printed 'I .* boot: loading segment'") as caught:
        Board(link, linear_bundle, handshake_timeout_s=PATIENCE_S)
    assert "if it is still booting" in caught.value.hint


def test_noise_is_not_waited_for(linear_bundle):
    start = time.monotonic()
    noise = np.random.default_rng(1).integers(0x80, 0x100, 200, dtype=np.uint8).tobytes()
    assert type(refused(noise)) is WrongBaudError
    assert time.monotonic() - start < 5 * PATIENCE_S


def test_text_from_a_board_is_shown_with_its_control_characters_escaped(linear_bundle):
    hostile = "\x1b[2J\x1b]0;title\x07 [red]\r\n\u202e\u00e9"
    with fake_board(firmware(linear_bundle, board=hostile, engine_version=hostile)) as board:
        assert board.info.board == board.info.engine_version == r"\x1b[2J\x1b]0;title\x07 [red]\r\n\u202e" + "\u00e9"


def test_the_cable_comes_out_during_the_handshake(linear_bundle):
    gone = firmware(linear_bundle)
    gone.unplugged = True
    with pytest.raises(CableUnpluggedError):
        fake_board(gone, linear_bundle)


def test_faults_begin_after_the_handshake(linear_bundle):
    board = Board(FakeLink(firmware(linear_bundle)), linear_bundle, faults=["drop:rate=1,direction=tx"])
    with pytest.raises(ReplyTimeoutError):
        board.request(messages.StatsRequest(), timeout_s=0.01)
    assert board.injected_faults == {"drop tx": 1}
