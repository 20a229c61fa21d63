"""``Board.load`` against a fake board: what it sends, what it does when the wire or the board is in the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from balance_hil.boards import Board, upload
from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.handshake import check_model, refused_model_error
from balance_hil.boards.upload import transfer
from balance_hil.bundle import Bundle
from balance_hil.errors import (
    ArenaTooSmallError,
    BoardRebootedError,
    BoardStatusError,
    ElementTypeError,
    ModelMismatchError,
    ReplyTimeoutError,
    UnsupportedOperatorError,
)
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder
from balance_hil.protocol.messages import Status
from balance_hil.testing.fake_board import FakeFirmware, FakeLink, fake_board, fake_info

OLD_ID = "0" * 12


def old(values: np.ndarray) -> np.ndarray:
    return np.array([1, 2], np.int8)


def new(values: np.ndarray) -> np.ndarray:
    return np.array([3, 4], np.int8)


@pytest.fixture
def firmware(ppo_bundle: Bundle) -> FakeFirmware:
    """A board that runs another policy and can be given the bundle's."""
    info = replace(fake_info(ppo_bundle), model_id=OLD_ID)
    return FakeFirmware(info, old, uploads={ppo_bundle.model(): new})


def output(board: Board) -> list[int]:
    return board.infer_raw(np.zeros(6, np.int8)).output.tolist()


def test_a_bundle_is_loaded_and_its_progress_told(firmware: FakeFirmware, ppo_bundle: Bundle) -> None:
    with fake_board(firmware) as board:
        assert output(board) == [1, 2]
        told: list[tuple[int, int]] = []
        result = board.load(ppo_bundle, lambda there, size: told.append((there, size)))
        assert (result.uploaded, result.resent, result.size_bytes) == (True, 0, told[-1][0])
        assert [there for there, _ in told] == sorted({there for there, _ in told})
        assert {size for _, size in told} == {len(ModelImage.of(ppo_bundle).data())}
        assert (board.info.model_id, board.info.uploaded) == (ppo_bundle.id, 1)
        assert output(board) == [3, 4]


def test_a_board_that_runs_it_already_is_left_alone(ppo_bundle: Bundle) -> None:
    firmware = FakeFirmware(fake_info(ppo_bundle), old)
    with fake_board(firmware) as board:
        assert not board.load(ppo_bundle).uploaded
        assert (board.bundle, output(board)) == (ppo_bundle, [1, 2])


@pytest.mark.parametrize("rx_buffer", [0, 64, 256, 512, 4096, 100_000])
def test_pieces_fit_the_buffer_of_the_board(firmware: FakeFirmware, ppo_bundle: Bundle, rx_buffer: int) -> None:
    firmware.info = replace(firmware.info, rx_buffer=rx_buffer)
    sent: list[int] = []

    class Listening(FakeLink):
        def write(self, data: bytes) -> None:
            sent.extend(len(data) for frame in Decoder().feed(data) if isinstance(frame.message, messages.LoadData))
            super().write(data)

    with Board(Listening(firmware), handshake_timeout_s=0.5) as board:
        assert transfer(board, ModelImage.of(ppo_bundle)).resent == 0
    assert max(sent) <= max(rx_buffer, 64)
    assert 2 * max(sent) <= max(rx_buffer, 64) or rx_buffer < 100, "two fit, so that the line does not idle"


FAULTS = [
    ("drop:rate=0.2",),
    ("drop:rate=0.2,direction=rx",),
    ("drop:rate=0.2,direction=tx",),
    ("duplicate:rate=0.5",),
    ("corrupt:rate=0.2",),
    ("truncate:rate=0.2",),
    ("drop:rate=0.1", "duplicate:rate=0.2", "corrupt:rate=0.1", "drop-byte:rate=0.001"),
]


@pytest.mark.parametrize("faults", FAULTS, ids=" ".join)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_lossy_wire_delays_it_and_nothing_else(
    firmware: FakeFirmware, ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, faults: tuple[str, ...], seed: int
) -> None:
    monkeypatch.setattr(upload, "FIRST_WAIT_S", 0.002)
    monkeypatch.setattr(upload, "LONGEST_WAIT_S", 0.004)
    monkeypatch.setattr(upload, "COMMIT_TIMEOUT_S", 0.01)
    monkeypatch.setattr(upload, "QUIET_TRIES", 100)
    board = Board(FakeLink(firmware), faults=faults, fault_seed=seed, handshake_timeout_s=5)
    with board:
        transfer(board, ModelImage.of(ppo_bundle))
        assert sum(board.injected_faults.values()) > 0
        assert board.query_info().model_id == ppo_bundle.id
    assert firmware.policy is new


def test_the_progress_of_a_verification_is_awaited(
    firmware: FakeFirmware, ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "VERIFY_POLL_S", 0.0)
    firmware.verify_polls = 5
    with fake_board(firmware) as board:
        assert transfer(board, ModelImage.of(ppo_bundle)).resent == 0
        assert firmware.policy is new


def test_a_verification_without_progress_is_given_up(
    firmware: FakeFirmware, ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "VERIFY_POLL_S", 0.0)
    monkeypatch.setattr(upload, "COMMIT_TIMEOUT_S", 0.02)
    firmware.verify_polls = 10**9
    with fake_board(firmware) as board, pytest.raises(ReplyTimeoutError, match=r"made no progress for .* s verifying the model"):
        transfer(board, ModelImage.of(ppo_bundle))


def test_a_board_that_falls_silent_is_given_up(
    firmware: FakeFirmware, ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(upload, "LONGEST_WAIT_S", 0.001)
    board = fake_board(firmware)
    monkeypatch.setattr(firmware, "feed", lambda data: [])
    with board, pytest.raises(ReplyTimeoutError, match=r"LoadBegin went unanswered 10 times, after 0 of \d+ bytes"):
        transfer(board, ModelImage.of(ppo_bundle))


def test_a_board_that_restarts_is_told_so(firmware: FakeFirmware, ppo_bundle: Bundle) -> None:
    with fake_board(firmware) as board:
        with pytest.raises(BoardRebootedError, match="in the middle of an upload and runs its flashed model again"):
            board.load(ppo_bundle, lambda there, size: board.send(messages.Reset()) if there else None)
        assert board.query_info().model_id == OLD_ID


def test_an_interrupt_ends_the_upload_and_the_board_forgets_it(firmware: FakeFirmware, ppo_bundle: Bundle) -> None:
    def interrupt(there: int, size: int) -> None:
        if there:
            raise KeyboardInterrupt

    with fake_board(firmware) as board:
        with pytest.raises(KeyboardInterrupt):
            board.load(ppo_bundle, interrupt)
        assert firmware._upload is None
        assert output(board) == [1, 2]
        assert board.bundle is None


def test_a_board_without_room_says_how_much_it_has(firmware: FakeFirmware, ppo_bundle: Bundle) -> None:
    firmware.info = replace(firmware.info, upload_size=100)
    with (
        fake_board(firmware) as board,
        pytest.raises(BoardStatusError, match="no_room, detail 100") as refused,
    ):
        board.load(ppo_bundle)
    assert f"rejected policy {ppo_bundle.id}; it keeps policy {OLD_ID}" in refused.value.message
    assert "hil flash" in refused.value.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.UNSUPPORTED_OPERATOR, UnsupportedOperatorError),
        (Status.ARENA_TOO_SMALL, ArenaTooSmallError),
        (Status.MODEL_NOT_INT8, ElementTypeError),
        (Status.VECTORS_DIFFER, BoardStatusError),
        (Status.UPLOAD_DAMAGED, BoardStatusError),
        (Status.OTHER_MODEL, BoardStatusError),
        (Status.MODEL_INVALID, BoardStatusError),
    ],
)
def test_every_refusal_says_what_goes_on_running(ppo_bundle: Bundle, status: Status, kind: type[Exception]) -> None:
    error = refused_model_error(fake_info(ppo_bundle), "port", "f" * 12, status, 7, "because")
    assert type(error) is kind
    assert f"it keeps policy {ppo_bundle.id}" in error.message
    assert "because" in error.message
    nothing = replace(fake_info(ppo_bundle), model_id="")
    assert "it still has none" in refused_model_error(nothing, "port", "f" * 12, status, 7, "").message


@pytest.mark.parametrize(("kind", "first"), [("native", "hil emulate"), ("serial", "hil flash")])
def test_a_mismatch_names_upload_where_the_board_has_room(ppo_bundle: Bundle, kind: str, first: str) -> None:
    board = BoardDefinition(name="some", kind=kind, environment="x")
    info = replace(fake_info(ppo_bundle), model_id=OLD_ID)
    with pytest.raises(ModelMismatchError) as with_room:
        check_model(info, ppo_bundle, "port", board)
    assert first in with_room.value.hint
    assert "--upload" in with_room.value.hint
    with pytest.raises(ModelMismatchError) as without:
        check_model(replace(info, upload_size=0), ppo_bundle, "port", board)
    assert "--upload" not in without.value.hint
