"""A session with one board: opening it, identifying the board, requests and their replies."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import ANY_SERIAL, BoardDefinition, Timing, find_definition
from balance_hil.boards.handshake import (
    BOOT_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    HELLO_INTERVAL_S,
    Handshake,
    check_model,
    identify,
    status_error,
)
from balance_hil.boards.kinds import find_kind
from balance_hil.boards.pieces import LARGEST_TENSOR, PiecedInference, fits_frame
from balance_hil.boards.power import reopened, switch
from balance_hil.boards.profile import CostUnit
from balance_hil.bundle import Bundle
from balance_hil.errors import (
    BoardRebootedError,
    BoardStatusError,
    CableUnpluggedError,
    LinkError,
    ReplyTimeoutError,
    UnknownBoardError,
    UsageError,
)
from balance_hil.link import Fault, FaultyLink, Link, faults, parse_faults
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Frame, encode
from balance_hil.protocol.messages import Action, Info, Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import FLOAT32, INT8, NUMBERED_ELEMENT_TYPES, ElementType, Float32Array, QuantParams, RawArray
from balance_hil.tflite.graph import read_graph

BoardInfo = Info
_DATA = (messages.InputData, messages.ObservationData)
FRAME_ROOM = 24  # of a request in pieces besides its values
# By what the board's timing depends on: an emulator on a busy computer may be delayed.
REPLY_TIMEOUT_S: dict[Timing, float] = {"board": 1.0, "host": 5.0}
BOOTLOADER_TIMEOUT_S = 0.5  # by then a board without a boot loader has said so
STORED_TIMEOUT_S = 30.0  # of an inference from an input that was sent in pieces: such a model is large
MIN_WINDOW_BYTES = 64  # a board that reports a smaller receive buffer gets one request at a time


class Machine(faults.Machine, Protocol):
    """The processes of an emulated board, with power and reset."""

    def press_reset(self) -> None:
        """Presses the reset button. Raises UsageError if the board has none."""

    def process_ids(self) -> list[int]:
        """The board's processes."""

    def exit_report(self) -> str | None:
        """Exit status and last output; None while it runs."""

    def close(self) -> None:
        """Ends the processes; may be called twice."""

    @property
    def instructions_per_us(self) -> float | None:
        """Instructions in a microsecond of the board's clock; None: not counted."""

    @property
    def image(self) -> Path | None:
        """The linked program that it runs, an ELF file; None: unknown."""


class _Pieces:
    """An inference in pieces, and its requests in flight by their numbers; ``seq`` is that of its result."""

    def __init__(self, seq: int, inference: PiecedInference) -> None:
        self.seq = seq
        self.in_flight: dict[int, Message] = {}  # oldest first
        self._inference = inference

    def next_requests(self, window_bytes: int) -> Iterator[Message]:
        """Requests to send now: those that fit the window, one at least if none is in flight."""
        pending = self._inference.pending
        used = sum(_frame_bytes(message) for message in self.in_flight.values())
        while pending and (not self.in_flight or used + _frame_bytes(pending[0]) <= window_bytes):
            used += _frame_bytes(pending[0])
            yield pending.popleft()

    def take(self, frame: Frame) -> Action | messages.Error | None:
        """The result, if this reply completes it. Raises LinkError."""
        attempts = self._inference.attempts
        result = self._inference.take(self.in_flight.pop(frame.seq), frame.message)
        if self._inference.attempts != attempts:
            self.in_flight.clear()  # of the attempt that was refused
        return result


def _frame_bytes(message: Message) -> int:
    """Of its frame, at most."""
    size = len(message.values) * message.values.itemsize if isinstance(message, _DATA) else 0
    return size + FRAME_ROOM


class Session:
    """An identified board. Use it as a context manager or call ``close``.

    Args:
        link: an open link to the board.
        bundle: policy that the board must run; None accepts any.
        definition: of the board.
        baud: baud rate of the port, for messages.
        machine: of a board that this program started.
        faults: injected after the handshake; a text is read by ``parse_faults``.
        fault_seed: the same seed affects the same frames.
        injectable: more may be injected later, see ``FaultyLink.inject``.
        tamper: wraps every link to the board before its first byte, to test fault detection; see ``verifying``.
        handshake_timeout_s: time allowed for the handshake; None: 3 s, or 20 s with a ``machine``.
        on_close: called after the port was closed, possibly twice.

    Raises:
        UsageError, ConfigError: no such fault, or not on this board.
        LinkError: the handshake failed; the subclass says why.
        ModelMismatchError and the engine's errors: see ``check_model``.
    """

    def __init__(
        self,
        link: Link,
        bundle: Bundle | None = None,
        *,
        definition: BoardDefinition = ANY_SERIAL,
        baud: int | None = None,
        machine: Machine | None = None,
        faults: Sequence[Fault | str] = (),
        fault_seed: int = 0,
        injectable: bool = False,
        tamper: Callable[[Link], Link] | None = None,
        handshake_timeout_s: float | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.definition = definition
        self.bundle = bundle
        self._baud = baud
        self._machine = machine
        self._faults = (parse_faults(faults), fault_seed)
        self._injectable = injectable
        self._tamper = tamper
        self._on_close = on_close
        usual_s = HANDSHAKE_TIMEOUT_S if machine is None else BOOT_TIMEOUT_S
        self._handshake_timeout_s = usual_s if handshake_timeout_s is None else handshake_timeout_s
        self.faults: FaultyLink | None = None  # injects them; None: there are none
        try:
            self._channel = Channel(self._harmed(link))
        except UsageError:
            link.close()
            raise
        self.unexpected_frames = 0  # replies that arrived after their timeout
        self._pieced: _Pieces | None = None  # the latest of ``send_observation``, until it is complete
        try:
            self.info: BoardInfo = self._introduce()
        except BaseException:
            self.close()
            raise

    def _harmed(self, link: Link) -> Link:
        """``link``, tampered with, and with fault injection that is not armed yet."""
        if self._tamper is not None:
            link = self._tamper(link)
        faults, seed = self._faults
        if not faults and not self._injectable:
            return link
        weights = None if self.bundle is None else self._weights
        self.faults = FaultyLink(link, faults, seed, armed=False, machine=self._machine, weights=weights)
        return self.faults

    def _weights(self) -> bytes:
        """Of the policy's widest layer, as they are in the board's memory."""
        assert self.bundle is not None
        tensors = read_graph(self.bundle.model()).tensors
        kinds = ("FLOAT32",) if self.kind == FLOAT32 else ("INT8",)
        return max((t.data.tobytes() for t in tensors if t.data is not None and t.type in kinds), key=len)

    def _introduce(self) -> BoardInfo:
        """The handshake on a newly opened link; arms fault injection afterwards."""
        info = self.identify()
        if self.faults is not None:
            self.faults.begin()
        return info

    # --- session ------------------------------------------------------------------------------------------------------

    def identify(self) -> BoardInfo:
        """Repeats the handshake and checks what the board runs; updates and returns ``info``."""
        info = self.query_info()
        self.accept(info)
        return info

    def accept(self, info: BoardInfo) -> None:
        """Stores an INFO as the board's identity.

        Raises:
            LinkError: no board has such a model.
            What ``check_model`` raises, with a bundle.
        """
        if max(info.n_obs, info.n_act) > LARGEST_TENSOR or info.element_type not in NUMBERED_ELEMENT_TYPES:
            raise LinkError(
                f"the board on {self.port} reports a model of {info.n_obs} inputs and {info.n_act} outputs of the element type "
                f"{info.element_type}",
                "reset the board, or flash it again",
            )
        if self.bundle is not None:
            check_model(info, self.bundle, self.port, self.definition)
        self.info = info

    @property
    def port(self) -> str:
        """Port of the board."""
        return self._channel.link.description

    @property
    def has_device_clock(self) -> bool:
        """Whether the board's time advances only while the host waits for it."""
        return hasattr(self._channel.link, "now_s")

    @property
    def cycles_per_us(self) -> float | None:
        """Of the processor that measures ``inference_us``; None: unknown, or its times are not its own (QEMU, native)."""
        try:
            kind = find_kind(find_definition(self.info.board).kind)
        except UnknownBoardError:
            return None
        return self.info.clock_hz / 1e6 if getattr(kind, "COUNTS_CYCLES", False) and self.info.clock_hz else None

    @property
    def cost_unit(self) -> tuple[CostUnit, float]:
        """What ``profile`` counts, and how many of it take a microsecond of the board's clock."""
        instructions_per_us = self._machine.instructions_per_us if self._machine is not None else None
        if instructions_per_us is not None:
            return "instructions", instructions_per_us
        return ("us", 1.0) if self.cycles_per_us is None else ("cycles", self.cycles_per_us)

    @property
    def image(self) -> Path | None:
        """The linked program of a board that this program started, an ELF file; None: unknown."""
        return self._machine.image if self._machine is not None else None

    def now_s(self) -> float:
        """The clock of the link: the wall clock, or that of a board which paces the run. See ``connect``."""
        return self._channel.now_s()

    @property
    def link(self) -> Link:
        """The open link."""
        return self._channel.link

    def reset(self) -> BoardInfo:
        """Reboots the board by RESET and identifies it again.

        Raises:
            ReplyTimeoutError: it did not come back.
        """
        self.send(messages.Reset())
        return self._back_from("RESET")

    def enter_bootloader(self) -> None:
        """Makes the board leave its firmware for the chip's boot loader. Only a reset or a new image brings the firmware back.

        Raises:
            BoardStatusError: the board has no boot loader that its firmware can start.
        """
        with contextlib.suppress(ReplyTimeoutError, CableUnpluggedError):  # the boot loader does not answer
            self.request(messages.EnterBootloader(), BOOTLOADER_TIMEOUT_S)

    def press_reset(self) -> BoardInfo:
        """Presses the reset button of an emulated board and identifies it again. Also works if the firmware hangs.

        Raises:
            UsageError: a physical board, or one without the button.
            ReplyTimeoutError: it did not come back.
        """
        self._emulated("reset button").press_reset()
        return self._back_from("its reset button")

    def power_cycle(self) -> BoardInfo:
        """Power-cycles the board and identifies it again: an emulated one, or one of the bench with a power switch.

        Raises:
            UsageError: it is neither.
            FlashToolMissingError, PowerSwitchError: the switch cannot be used, or failed.
            Port…Error, LinkError: the board did not come back.
        """
        place = self.definition.place
        if self._machine is not None or place is None or not place.has_switch:
            self._channel.replace(self._harmed(self._emulated("power").restart()))
            return self._introduce()
        self._channel.link.close()
        switch(place, "cycle")
        self._channel.replace(self._harmed(reopened(self.definition, self._baud)))
        return self._introduce()

    def pause(self) -> None:
        """Suspends an emulated board's processor until ``resume``. Raises UsageError for a physical one."""
        self._emulated("processor").pause()

    def resume(self) -> None:
        """Resumes a paused board. What was sent meanwhile is still in its receive buffer."""
        self._emulated("processor").resume()

    @property
    def process_ids(self) -> list[int]:
        """The processes of an emulated board; none of a physical one."""
        return self._machine.process_ids() if self._machine is not None else []

    def _emulated(self, what: str) -> Machine:
        if self._machine is None:
            raise UsageError(
                f"this program cannot operate the {what} of the board on {self.port}", "do it by hand, or use an emulated board"
            )
        return self._machine

    def _back_from(self, what: str) -> BoardInfo:
        try:
            ready = self._channel.await_kind(messages.Ready, self._handshake_timeout_s)
        except CableUnpluggedError as exc:
            raise self._explained(exc) from exc
        if ready is None:
            raise ReplyTimeoutError(f"the board on {self.port} did not come back after {what}", "power-cycle it")
        return self.identify()

    @property
    def name(self) -> str:
        """Name of the board's definition."""
        return self.definition.name

    @property
    def injected_faults(self) -> dict[str, int]:
        """Count of each injected fault so far, such as {"drop rx": 3}."""
        return dict(self.faults.injected) if self.faults is not None else {}

    @property
    def readable(self) -> bool:
        """With injected faults: whether there is something to ``poll`` now."""
        return self._channel.has_frames or (self.faults is not None and self.faults.readable)

    @property
    def bad_frames(self) -> int:
        """Frames that arrived damaged since the port was opened."""
        return self._channel.decoder.bad_frames

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

    def close(self) -> None:
        """Closes the port and ends an emulated board; may be called twice."""
        self._channel.link.close()
        if self._machine is not None:
            self._machine.close()
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- frames -------------------------------------------------------------------------------------------------------

    def query_info(self) -> BoardInfo:
        """Makes a handshake and returns the INFO, whatever model the board runs. Raises what the handshake raises."""
        try:
            return identify(self._channel, timeout_s=self._handshake_timeout_s, baud=self._baud)
        except CableUnpluggedError as exc:
            raise self._explained(exc) from exc

    def start_handshake(self, now: Callable[[], float] | None = None, interval_s: float = HELLO_INTERVAL_S) -> Handshake:
        """A handshake for a caller's own receive loop, on its clock, a HELLO per ``interval_s``; pass INFO to ``accept``."""
        return Handshake(self._channel, now, interval_s)

    def next_seq(self) -> int:
        """The next sequence number, for a frame sent with ``send_raw``."""
        return self._channel.next_seq()

    def send(self, message: Message) -> int:
        """Sends a request without waiting; returns its sequence number, which the reply repeats."""
        seq = self._channel.next_seq()
        self.send_raw(encode(message, seq))
        return seq

    def send_raw(self, data: bytes) -> None:
        """Sends raw bytes."""
        try:
            self._channel.link.write(data)
        except CableUnpluggedError as exc:
            raise self._explained(exc) from exc

    def send_observation(self, observation: Float32Array) -> int:
        """Sends an observation, float32 [n_obs], without waiting; returns the number of the frame with its ACTION or ERROR.

        Where it takes several frames ``poll`` sends the rest and makes ACTION of the answers; only the latest gets one.
        """
        if not self.in_pieces:
            return self.send(messages.Infer(observation))
        self._pieced = _Pieces(self._channel.next_seq(), self._pieced_inference(observation, raw=False))
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
            try:
                frame = self._channel.poll(timeout_s)
            except CableUnpluggedError as exc:
                raise self._explained(exc) from exc
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

    def _pieced_inference(self, values: Float32Array | RawArray, *, raw: bool) -> PiecedInference:
        if values.shape != (self.info.n_obs,):
            raise status_error(
                Status.WRONG_COUNT, self.info.n_obs, f"the board on {self.port} does not take {np.size(values)} values"
            )
        return PiecedInference(values, self.info.n_act, self.output_quant, self.port, raw=raw)

    def _send_pieces(self, pieces: _Pieces) -> None:
        """Sends as many as the board's receive buffer holds."""
        window = max(self.info.rx_buffer, MIN_WINDOW_BYTES)
        for message, seq, frame in self._frames_of(pieces.next_requests(window)):
            pieces.in_flight[seq] = message
            self.send_raw(frame)

    def infer_in_pieces(self, values: Float32Array | RawArray, *, raw: bool) -> Action:
        """One inference from an observation, float32 [n_obs], or a ``raw`` input, of ``kind`` [n_obs], whatever its size.

        Raises:
            LinkError: a reply cannot be right.
            What ``request`` raises.
        """
        pieces = _Pieces(0, self._pieced_inference(values, raw=raw))
        while True:
            self._send_pieces(pieces)
            seq, request = next(iter(pieces.in_flight.items()))
            timeout_s = STORED_TIMEOUT_S if isinstance(request, messages.InferStored) else self._timeout_or_default_s(None)
            reply = self._reply_to(seq, request, timeout_s)
            result = pieces.take(Frame(seq, reply))
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
        return self._accepted(message, self._reply_to(self.send(message), message, self._timeout_or_default_s(timeout_s)))

    def _accepted(self, message: Message, reply: Message) -> Message:
        """``reply`` to ``message``. Raises BoardStatusError if it is an ERROR."""
        if isinstance(reply, messages.Error):
            raise self._refusal(message, reply)
        return reply

    def _refusal(self, message: Message, reply: messages.Error) -> BoardStatusError:
        return status_error(reply.status, reply.detail, f"the board on {self.port} refused {type(message).__name__}")

    def _timeout_or_default_s(self, timeout_s: float | None) -> float:
        return REPLY_TIMEOUT_S[self.definition.timing] if timeout_s is None else timeout_s

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
        reply_timeout_s = self._timeout_or_default_s(timeout_s)
        window = max(self.info.rx_buffer, MIN_WINDOW_BYTES)
        in_flight: deque[tuple[int, Message, int]] = deque()
        in_flight_bytes = 0
        replies: list[Message] = []

        def await_next() -> None:
            seq, message, _ = in_flight.popleft()
            replies.append(self._accepted(message, self._reply_to(seq, message, reply_timeout_s)))

        for message, seq, frame in self._frames_of(requests):
            while in_flight and in_flight_bytes + len(frame) > window:
                in_flight_bytes -= in_flight[0][2]
                await_next()
            self.send_raw(frame)
            in_flight.append((seq, message, len(frame)))
            in_flight_bytes += len(frame)
        while in_flight:
            await_next()
        return replies

    def _frames_of(self, requests: Iterable[Message]) -> Iterable[tuple[Message, int, bytes]]:
        for message in requests:
            seq = self._channel.next_seq()
            yield message, seq, encode(message, seq)

    def _explained(self, exc: CableUnpluggedError) -> CableUnpluggedError:
        """For an emulated board, a lost connection means that its process ended, unless fault injection cut the link."""
        was_cut = self.faults is not None and self.faults.cut
        exit_report = self._machine.exit_report() if self._machine is not None and not was_cut else None
        if exit_report is None:
            return exc
        return CableUnpluggedError(
            f"the emulated board {self.name} ended: {exit_report}", "start it again; check the installation: hil doctor"
        )
