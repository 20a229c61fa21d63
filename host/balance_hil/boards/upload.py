"""LOAD: uploads a model over the wire, without flashing. It is lost at reset.

    LOAD_BEGIN ─ LOAD_DATA, several in flight ─ LOAD_COMMIT ─ HELLO

The board keeps its model until it has received the new one completely, checked its checksum, identity, operators and sizes,
and reproduced its golden vectors. Messages may be lost or duplicated: the board reports how many bytes it has, and the upload
resumes there.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from balance_hil.boards.handshake import refused_model_error
from balance_hil.boards.session import MIN_WINDOW_BYTES, Session
from balance_hil.errors import BoardRebootedError, BoardStatusError, LinkError, ReplyTimeoutError
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.codec import OVERHEAD, encode
from balance_hil.protocol.messages import Status
from balance_hil.protocol.wire import Message

DELIMITER = b"\x00"  # terminates a partial frame in the board's buffer
PIECE_OVERHEAD = 10 + OVERHEAD + 6  # overhead of LOAD_DATA: fields, frame, COBS
MAX_PIECE = messages.MAX_PAYLOAD - 10
MIN_PIECE = 16
FIRST_WAIT_S = 0.5  # for an answer; doubled after each timeout, so that a slow board is not flooded
LONGEST_WAIT_S = 2.0
QUIET_TRIES = 10  # consecutive timeouts or lost pieces without progress
COMMIT_TIMEOUT_S = 5.0  # without progress of the verification: slow processors need time to hash and to build tables
VERIFY_POLL_S = 0.01

Progress = Callable[[int, int], None]  # bytes received, total bytes


@dataclass(frozen=True, kw_only=True)
class UploadResult:
    """Result of ``Board.load``."""

    uploaded: bool  # False: the board already ran the model
    size_bytes: int  # of model, normalization and vectors
    wall_s: float
    resent: int  # number of retransmissions


def transfer(session: Session, image: ModelImage, on_progress: Progress | None = None) -> UploadResult:
    """Uploads a model. Afterwards the board requires a HELLO before it infers: see ``Board.load``.

    Raises:
        BoardStatusError and subclasses: the board rejects the upload or the model, and keeps its previous one.
        ReplyTimeoutError: it stopped answering. BoardRebootedError: it restarted. CableUnpluggedError: the port vanished.
    """
    start = time.perf_counter()
    sender = _Sender(session, image, on_progress)
    try:
        sender.run()
    except BoardRebootedError:
        raise
    except BaseException:
        sender.give_up()
        raise
    return UploadResult(uploaded=True, size_bytes=len(sender.data), wall_s=time.perf_counter() - start, resent=sender.resent)


class _Sender:
    """One upload. Resumes from the board's position after a rejected piece or a timeout."""

    def __init__(self, session: Session, image: ModelImage, on_progress: Progress | None) -> None:
        self.data = image.data()
        self.resent = 0
        self._session = session
        self._image = image
        self._on_progress = on_progress
        self._number = 1 + secrets.randbelow(0xFFFF_FFFF)
        self._received = 0
        self._quiet = 0  # tries without progress
        self._window = max(session.info.rx_buffer, MIN_WINDOW_BYTES)
        # Two pieces in flight keep the line busy while the board answers.
        self._piece = min(MAX_PIECE, max(MIN_PIECE, self._window // 2 - PIECE_OVERHEAD))

    def run(self) -> None:
        self._insist(self._image.begin(self._number))
        while self._received < len(self.data):
            self._send_pieces()
        self._commit()

    def give_up(self) -> None:
        """Aborts the upload, if the board still responds."""
        with contextlib.suppress(LinkError):
            self._session.send_raw(DELIMITER)
            self._session.send(messages.LoadAbort(self._number))

    def _insist(self, message: Message) -> None:
        """Repeats LOAD_BEGIN until LOAD_PROGRESS arrives."""
        while True:
            seq = self._session.send(message)
            if self._await(deque([seq])):
                return
            self._again(message)

    def _send_pieces(self) -> None:
        """Sends the remaining pieces, as many in flight as the board's buffer holds; returns early if one is lost."""
        in_flight: deque[int] = deque()
        sizes: deque[int] = deque()
        position = self._received
        while position < len(self.data) or in_flight:
            while position < len(self.data):
                piece = messages.LoadData(self._number, position, self.data[position : position + self._piece])
                seq = self._session.next_seq()
                frame = encode(piece, seq)
                # One at a time after a timeout, until the next success.
                if in_flight and (self._quiet or sum(sizes) + len(frame) > self._window):
                    break
                self._session.send_raw(frame)
                in_flight.append(seq)
                sizes.append(len(frame))
                position += len(piece.data)
            if not self._await(in_flight):
                self._again(piece)
                return
            while len(sizes) > len(in_flight):
                sizes.popleft()

    def _await(self, in_flight: deque[int]) -> bool:
        """Waits for the answer to one of ``in_flight``, removes it and those before it; False: lost or out of order."""
        deadline = self._session.now_s() + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._quiet)
        while (left_s := deadline - self._session.now_s()) > 0 and (frame := self._session.poll(left_s)) is not None:
            message = frame.message
            if isinstance(message, messages.Ready):
                raise self._rebooted()
            answered = isinstance(message, messages.LoadProgress) and message.transfer == self._number
            if isinstance(message, messages.LoadProgress) and answered:  # else a late answer to a piece that was resent
                self._advance(message.received)
            if frame.seq not in in_flight:
                continue
            while in_flight.popleft() != frame.seq:
                pass
            if isinstance(message, messages.Error):
                return self._refused(message)
            if answered:
                return True
        return False

    def _advance(self, received: int) -> None:
        if received > self._received:
            self._quiet = 0
        self._received = max(self._received, received)
        if self._on_progress is not None:
            self._on_progress(self._received, len(self.data))

    def _refused(self, error: messages.Error) -> bool:
        """Out of order: an earlier piece was lost, so go back. Any other status ends the upload."""
        if error.status != Status.WRONG_OFFSET:
            raise self._error(error.status, error.detail, "")
        self._advance(error.detail)
        return False

    def _again(self, message: Message) -> None:
        self.resent += 1
        self._quiet += 1
        if self._quiet >= QUIET_TRIES:
            raise ReplyTimeoutError(
                f"the board on {self._session.port} did not receive the model: {type(message).__name__} went unanswered "
                f"{self._quiet} times, after {self._received} of {len(self.data)} bytes",
                "check cable, hub and baud rate; reconnect to see which model the board runs",
            )
        self._session.send_raw(DELIMITER)

    def _commit(self) -> None:
        """Repeats LOAD_COMMIT until the board has verified the model."""
        commit = messages.LoadCommit(self._number)
        left, deadline = len(self._image.inputs) + 1, 0.0  # vectors not replayed yet
        while True:
            try:
                reply = self._session.request(commit, COMMIT_TIMEOUT_S)
            except ReplyTimeoutError:
                self._again(commit)
                continue
            except BoardStatusError as exc:
                raise self._error(Status[exc.status.upper()], exc.detail, "") from exc
            if not isinstance(reply, messages.LoadResult):
                continue
            if reply.status == Status.OK:
                return
            if reply.status != Status.VERIFYING:
                raise self._error(reply.status, reply.detail, reply.message)
            if reply.detail < left:
                left, deadline = reply.detail, time.perf_counter() + COMMIT_TIMEOUT_S
            if time.perf_counter() > deadline:
                raise ReplyTimeoutError(
                    f"the board on {self._session.port} made no progress for {COMMIT_TIMEOUT_S:g} s verifying the model: "
                    f"{left} of {len(self._image.inputs)} vectors left",
                    "reset it: its engine may hang",
                )
            time.sleep(VERIFY_POLL_S)

    def _error(self, status: int, detail: int, message: str) -> Exception:
        return refused_model_error(self._session.info, self._session.port, self._image.id, status, detail, message)

    def _rebooted(self) -> BoardRebootedError:
        return BoardRebootedError(
            f"the board on {self._session.port} restarted in the middle of an upload and runs its flashed model again",
            "check its power supply and try again",
        )
