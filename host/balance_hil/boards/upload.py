"""LOAD: a model over the wire, without flashing. It is gone after a reset.

    LOAD_BEGIN ─ LOAD_DATA, several in flight ─ LOAD_COMMIT ─ HELLO

The board keeps running its model until it has received the new one whole, found its checksum, identity, operators and sizes
right, and reproduced the golden vectors that came along. Every message may be lost or doubled on the way: the board says how far
it got, and what it has already is not sent again.
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

DELIMITER = b"\x00"  # ends whatever half frame the board may still hold
PIECE_OVERHEAD = 10 + OVERHEAD + 6  # of LOAD_DATA around its bytes: fields, frame, COBS
MAX_PIECE = messages.MAX_PAYLOAD - 10
MIN_PIECE = 16
FIRST_WAIT_S = 0.5  # for an answer; doubled with each silence, for a board that is merely slow must not be flooded
LONGEST_WAIT_S = 2.0
QUIET_TRIES = 10  # so often the board may stay silent, or lose a piece, without any progress
COMMIT_TIMEOUT_S = 5.0  # a slow processor hashes, builds tables and runs the vectors

Progress = Callable[[int, int], None]  # bytes there, bytes in all


@dataclass(frozen=True, kw_only=True)
class UploadResult:
    """What ``Board.load`` did."""

    uploaded: bool  # False: the board ran the model already
    size_bytes: int  # of model, normalization and vectors
    wall_s: float
    resent: int  # how often something had to be sent again


def transfer(session: Session, image: ModelImage, on_progress: Progress | None = None) -> UploadResult:
    """Brings a model to the board. Then the board wants a HELLO before it infers: see ``Board.load``.

    Raises:
        BoardStatusError and its kind: the board refuses the upload or, after it, the model. What it ran runs on.
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
    """One upload. Goes back to where the board is whenever a piece is refused or nothing comes back."""

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
        # Two pieces in flight, so that the line does not idle while the board answers one.
        self._piece = min(MAX_PIECE, max(MIN_PIECE, self._window // 2 - PIECE_OVERHEAD))

    def run(self) -> None:
        self._insist(self._image.begin(self._number))
        while self._received < len(self.data):
            self._send_pieces()
        self._commit()

    def give_up(self) -> None:
        """Tells the board to forget what it has, if it still listens."""
        with contextlib.suppress(LinkError):
            self._session.send_raw(DELIMITER)
            self._session.send(messages.LoadAbort(self._number))

    def _insist(self, message: Message) -> None:
        """Sends until it is answered by LOAD_PROGRESS."""
        while True:
            seq = self._session.send(message)
            if self._await(deque([seq])):
                return
            self._again(message)

    def _send_pieces(self) -> None:
        """Pieces from where the board is to the end, as many in flight as its buffer holds; ends early when one went astray."""
        in_flight: deque[int] = deque()
        sizes: deque[int] = deque()
        position = self._received
        while position < len(self.data) or in_flight:
            while position < len(self.data):
                piece = messages.LoadData(self._number, position, self.data[position : position + self._piece])
                seq = self._session.next_seq()
                frame = encode(piece, seq)
                # One at a time after a silence, until something has got through again.
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
        """Waits for the answer to one of ``in_flight`` and takes it and those before it off; False: lost, or out of step."""
        deadline = time.perf_counter() + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._quiet)
        while (left_s := deadline - time.perf_counter()) > 0 and (frame := self._session.poll(left_s)) is not None:
            message = frame.message
            if isinstance(message, messages.Ready):
                raise self._rebooted()
            answered = isinstance(message, messages.LoadProgress) and message.transfer == self._number
            if isinstance(message, messages.LoadProgress) and answered:  # or a late answer to what was sent again meanwhile
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
        """A piece before this one was lost: go back. Anything else ends the upload."""
        if error.status != Status.WRONG_OFFSET:
            raise self._error(error.status, error.detail, "")
        self._advance(error.detail)
        return False

    def _again(self, message: Message) -> None:
        self.resent += 1
        self._quiet += 1
        if self._quiet >= QUIET_TRIES:
            raise ReplyTimeoutError(
                f"the board on {self._session.port} did not take the model: {type(message).__name__} went unanswered "
                f"{self._quiet} times, with {self._received} of {len(self.data)} bytes there",
                "look at cable, hub and baud rate; what the board runs now, it says when it is connected to again",
            )
        self._session.send_raw(DELIMITER)

    def _commit(self) -> None:
        """Asks until the board has answered. Where the model runs, it wants a HELLO first."""
        while True:
            try:
                reply = self._session.request(messages.LoadCommit(self._number), COMMIT_TIMEOUT_S)
            except ReplyTimeoutError:
                self._again(messages.LoadCommit(self._number))
                self._session.greet()
                continue
            except BoardStatusError as exc:
                if exc.status == Status.NOT_IDENTIFIED.name.lower():  # it runs, and the answer that said so was lost
                    self._again(messages.LoadCommit(self._number))
                    self._session.greet()
                    continue
                raise self._error(Status[exc.status.upper()], exc.detail, "") from exc
            if isinstance(reply, messages.LoadResult):
                if reply.status != Status.OK:
                    raise self._error(reply.status, reply.detail, reply.message)
                return

    def _error(self, status: int, detail: int, message: str) -> Exception:
        return refused_model_error(self._session.info, self._session.port, self._image.id, status, detail, message)

    def _rebooted(self) -> BoardRebootedError:
        return BoardRebootedError(
            f"the board on {self._session.port} restarted in the middle of an upload and runs its flashed model again",
            "its supply may sag or its firmware crash; try again",
        )
