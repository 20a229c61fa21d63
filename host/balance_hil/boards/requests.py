"""Requests to a board and their replies: one at a time, several in flight, or an inference in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import Timing
from balance_hil.boards.handshake import status_error
from balance_hil.boards.pieces import PiecedInference, fits_frame
from balance_hil.errors import BoardRebootedError, BoardStatusError, LinkError, ReplyTimeoutError
from balance_hil.link import Link
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Frame, encode
from balance_hil.protocol.messages import Action, Info, Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import INT8, NUMBERED_ELEMENT_TYPES, ElementType, Float32Array, QuantParams, RawArray

# By what the board's timing depends on: an emulator on a busy computer may be delayed.
REPLY_TIMEOUT_S: dict[Timing, float] = {"board": 1.0, "host": 5.0}
STORED_TIMEOUT_S = 30.0  # of an inference from an input that was sent in pieces: such a model is large
MIN_WINDOW_BYTES = 64  # a board that reports a smaller receive buffer gets one request at a time


class Requests:
    """Requests to the board at the other end of ``channel``, and their replies."""

    info: Info  # of the latest handshake

    def __init__(self, channel: Channel, timing: Timing) -> None:
        self._channel = channel
        self._reply_timeout_s = REPLY_TIMEOUT_S[timing]
        self.unexpected_frames = 0  # replies that arrived after their timeout
        self._pieced: PiecedInference | None = None  # the latest of ``send_observation``, until it is complete

    @property
    def port(self) -> str:
        """Port of the board."""
        return self._channel.link.description

    def now_s(self) -> float:
        """The clock of the link: the wall clock, or that of a board which paces the run. See ``connect``."""
        return self._channel.now_s()

    @property
    def link(self) -> Link:
        """The open link."""
        return self._channel.link

    @property
    def kind(self) -> ElementType:
        """Element type of the board's model, as the board reports it."""
        return NUMBERED_ELEMENT_TYPES[self.info.element_type]

    @property
    def input_quant(self) -> QuantParams:
        """Quantization of the observation, as the board reports it."""
        return QuantParams(self.info.input_scale, self.info.input_zero_point, self.kind)

    @property
    def output_quant(self) -> QuantParams:
        """Quantization of the action, as the board reports it."""
        return QuantParams(self.info.output_scale, self.info.output_zero_point, self.kind)

    @property
    def window_bytes(self) -> int:
        """Of requests in flight that the board's receive buffer holds."""
        return max(self.info.rx_buffer, MIN_WINDOW_BYTES)

    def next_seq(self) -> int:
        """The next sequence number, for a frame sent with ``send_raw``."""
        return self._channel.next_seq()

    def send(self, message: Message) -> int:
        """Sends a request without waiting; returns its sequence number, which the reply repeats."""
        return self._channel.send(message)

    def send_raw(self, data: bytes) -> None:
        """Sends raw bytes."""
        self._channel.write(data)

    def send_observation(self, observation: Float32Array) -> int:
        """Sends an observation, float32 [n_obs], without waiting; returns the number of the frame with its ACTION or ERROR.

        Where it takes several frames ``poll`` sends the rest and makes ACTION of the answers; only the latest gets one.
        """
        if not self.in_pieces:
            return self.send(messages.Infer(observation))
        self._pieced = self._pieced_inference(self._channel.next_seq(), observation, raw=False)
        self._send_pieces(self._pieced)
        return self._pieced.seq

    @property
    def in_pieces(self) -> bool:
        """Whether an input or output of the board's model does not fit a frame."""
        return not fits_frame(self.info.n_obs, self.info.n_act, self.kind.dtype.itemsize)

    def poll(self, timeout_s: float) -> Frame | None:
        """The next frame from the board; None if none arrives in time."""
        deadline = self.now_s() + timeout_s
        while True:
            frame = self._channel.poll(timeout_s)
            pieces = self._pieced
            if frame is None or pieces is None or frame.seq not in pieces.in_flight:
                return frame if frame is None else self._typed(frame)
            result = pieces.take(frame)
            if result is not None:
                self._pieced = None
                return Frame(pieces.seq, result)
            self._send_pieces(pieces)
            timeout_s = max(0.0, deadline - self.now_s())

    def _typed(self, frame: Frame) -> Frame:
        """With the raw values of ACTION in the model's element type. Raises LinkError."""
        action = frame.message
        if self.info.element_type == INT8.number or not isinstance(action, Action):
            return frame
        dtype = self.kind.dtype
        try:
            typed = replace(action, input=action.input.view(dtype), output=action.output.view(dtype))
        except ValueError:
            raise LinkError(
                f"the board on {self.port} sent {len(action.input)} and {len(action.output)} bytes for values of {dtype}",
                "reset the board, or flash it again",
            ) from None
        return Frame(frame.seq, typed)

    def _pieced_inference(self, seq: int, values: Float32Array | RawArray, *, raw: bool) -> PiecedInference:
        if values.shape != (self.info.n_obs,):
            raise status_error(
                Status.WRONG_COUNT, self.info.n_obs, f"the board on {self.port} does not take {np.size(values)} values"
            )
        return PiecedInference(seq, values, self.info.n_act, self.output_quant, self.port, raw=raw)

    def _send_pieces(self, pieces: PiecedInference) -> None:
        """Sends as many as the board's receive buffer holds."""
        for message in pieces.next_requests(self.window_bytes):
            pieces.in_flight[self.send(message)] = message

    def infer_in_pieces(self, values: Float32Array | RawArray, *, raw: bool) -> Action:
        """One inference from an observation, float32 [n_obs], or a ``raw`` input, of ``kind`` [n_obs], whatever its size.

        Raises:
            LinkError: a reply cannot be right.
            What ``request`` raises.
        """
        pieces = self._pieced_inference(0, values, raw=raw)
        while True:
            self._send_pieces(pieces)
            seq, request = next(iter(pieces.in_flight.items()))
            timeout_s = STORED_TIMEOUT_S if isinstance(request, messages.InferStored) else self._reply_timeout_s
            result = pieces.take(Frame(seq, self._reply_to(seq, request, timeout_s)))
            if isinstance(result, messages.Error):
                raise self._refusal(request, result)
            if result is not None:
                return result

    def request(self, message: Message, timeout_s: float | None = None) -> Message:
        """Sends a request and returns its reply.

        Raises:
            BoardStatusError: the board rejected it.
            ReplyTimeoutError: no answer within ``timeout_s`` (None: 1 s, or 5 s for an emulated processor).
            BoardRebootedError: READY arrived instead.
            CableUnpluggedError: the port vanished.
        """
        timeout_s = self._reply_timeout_s if timeout_s is None else timeout_s
        return self._accepted(message, self._reply_to(self.send(message), message, timeout_s))

    def _accepted(self, message: Message, reply: Message) -> Message:
        """``reply`` to ``message``. Raises BoardStatusError if it is an ERROR."""
        if isinstance(reply, messages.Error):
            raise self._refusal(message, reply)
        return reply

    def _refusal(self, message: Message, reply: messages.Error) -> BoardStatusError:
        return status_error(reply.status, reply.detail, f"the board on {self.port} refused {type(message).__name__}")

    def _reply_to(self, seq: int, message: Message, timeout_s: float) -> Message:
        deadline = self.now_s() + timeout_s
        left_s = timeout_s
        while (frame := self.poll(left_s)) is not None:
            reply = frame.message
            if isinstance(reply, messages.Ready):
                raise BoardRebootedError(
                    f"the board on {self.port} restarted before it answered {type(message).__name__}",
                    "check its power supply, and the reset cause and stack usage in its INFO",
                )
            if frame.seq == seq:
                return reply
            self.unexpected_frames += 1
            left_s = deadline - self.now_s()
            if left_s <= 0:  # even if frames keep coming
                break
        raise ReplyTimeoutError(
            f"the board on {self.port} did not answer {type(message).__name__} within {timeout_s:g} s",
            "reset it: its firmware may hang",
        )

    # --- several requests in flight -----------------------------------------------------------------------------------

    def pipeline(self, requests: Sequence[Message], timeout_s: float | None = None) -> list[Message]:
        """Replies to ``requests``, in order, with as many in flight as the board's receive buffer holds.

        Raises what ``request`` raises; ``timeout_s`` counts from the latest reply.
        """
        timeout_s = self._reply_timeout_s if timeout_s is None else timeout_s
        in_flight: deque[tuple[int, Message, int]] = deque()
        in_flight_bytes = 0
        replies: list[Message] = []

        def await_next() -> None:
            seq, message, _ = in_flight.popleft()
            replies.append(self._accepted(message, self._reply_to(seq, message, timeout_s)))

        for message in requests:
            seq = self.next_seq()
            frame = encode(message, seq)
            while in_flight and in_flight_bytes + len(frame) > self.window_bytes:
                in_flight_bytes -= in_flight[0][2]
                await_next()
            self.send_raw(frame)
            in_flight.append((seq, message, len(frame)))
            in_flight_bytes += len(frame)
        while in_flight:
            await_next()
        return replies
