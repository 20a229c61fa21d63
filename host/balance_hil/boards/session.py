"""A session with one board: opening it, identifying the board, requests and their replies."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import ANY_SERIAL, BoardDefinition, Timing
from balance_hil.boards.handshake import BOOT_TIMEOUT_S, HANDSHAKE_TIMEOUT_S, Greeting, check_model, identify, status_error
from balance_hil.bundle import Bundle
from balance_hil.errors import BoardRebootedError, CableUnpluggedError, ReplyTimeoutError, UsageError
from balance_hil.link import Fault, FaultyLink, Link
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Frame, encode
from balance_hil.protocol.messages import Info
from balance_hil.protocol.wire import Message
from balance_hil.quantize import QuantParams

BoardInfo = Info
# By who keeps the board's time: an emulator on a busy computer may have to wait for its turn.
REPLY_TIMEOUT_S: dict[Timing, float] = {"board": 1.0, "host": 5.0}
MIN_WINDOW_BYTES = 64  # a board that reports a smaller receive buffer gets one request at a time


class Machine(Protocol):
    """What stands behind an emulated board: something that can lose power."""

    def restart(self) -> Link:
        """Ends it, starts it afresh and returns the link to it."""

    def press_reset(self) -> None:
        """The reset button. Raises UsageError where there is none."""

    def pause(self) -> None:
        """Stops the processor: the board hangs until ``resume``."""

    def resume(self) -> None:
        """Lets a paused processor go on."""

    def process_ids(self) -> list[int]:
        """The processes that are the board."""

    def obituary(self) -> str | None:
        """How it ended, with its last words; None while it runs."""

    def close(self) -> None:
        """Ends it; may be called twice."""


class Session:
    """A board that said who it is. Use it as a context manager or call ``close``.

    Args:
        link: an open link to the board.
        bundle: what it must run; None takes it as it is.
        definition: what kind of board it is.
        baud: that the port was opened with, for messages.
        machine: of a board that this program started.
        faults: done to everything that passes once the board has identified itself.
        fault_seed: same seed, same frames hit.
        handshake_timeout_s: how long to wait for the board to say who it is; None: 3 s, or 20 s with a ``machine``.

    Raises:
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
        faults: Sequence[Fault] = (),
        fault_seed: int = 0,
        handshake_timeout_s: float | None = None,
    ) -> None:
        self.definition = definition
        self.bundle = bundle
        self._baud = baud
        self._machine = machine
        self._faults = (faults, fault_seed)
        usual_s = HANDSHAKE_TIMEOUT_S if machine is None else BOOT_TIMEOUT_S
        self._handshake_timeout_s = usual_s if handshake_timeout_s is None else handshake_timeout_s
        self._faulty: FaultyLink | None = None
        self._channel = Channel(self._harmed(link))
        self.unexpected_frames = 0  # replies to requests that were given up
        try:
            self.info: BoardInfo = self._introduce()
        except BaseException:
            self.close()
            raise

    def _harmed(self, link: Link) -> Link:
        """``link`` with the faults around it, not armed yet."""
        faults, seed = self._faults
        if not faults:
            return link
        self._faulty = FaultyLink(link, faults, seed, armed=False)
        return self._faulty

    def _introduce(self) -> BoardInfo:
        """The handshake on a newly opened link; faults begin behind it."""
        info = self.identify()
        if self._faulty is not None:
            self._faulty.armed = True
        return info

    # --- session ------------------------------------------------------------------------------------------------------

    def identify(self) -> BoardInfo:
        """Greets the board (again) and checks what it runs; updates and returns ``info``."""
        info = self.greet()
        self.accept(info)
        return info

    def accept(self, info: BoardInfo) -> None:
        """Takes an INFO as the board's identity. Raises what ``check_model`` raises when there is a bundle to check against."""
        if self.bundle is not None:
            check_model(info, self.bundle, self.port, self.definition)
        self.info = info

    @property
    def port(self) -> str:
        """Where the board is."""
        return self._channel.link.description

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

    def press_reset(self) -> BoardInfo:
        """Presses the reset button of an emulated board and identifies it again: works on a board that hangs, too.

        Raises:
            UsageError: a physical board, or one without the button.
            ReplyTimeoutError: it did not come back.
        """
        self._emulated("reset button").press_reset()
        return self._back_from("its reset button")

    def power_cycle(self) -> BoardInfo:
        """Switches an emulated board off and on, and identifies it again. Raises UsageError for a physical one."""
        self._channel.replace(self._harmed(self._emulated("power").restart()))
        return self._introduce()

    def pause(self) -> None:
        """Stops an emulated board's processor: it hangs until ``resume``. Raises UsageError for a physical one."""
        self._emulated("processor").pause()

    def resume(self) -> None:
        """Lets a paused board go on. What was sent meanwhile waits at its door."""
        self._emulated("processor").resume()

    @property
    def process_ids(self) -> list[int]:
        """The processes of an emulated board; none of a physical one."""
        return self._machine.process_ids() if self._machine is not None else []

    def _emulated(self, what: str) -> Machine:
        if self._machine is None:
            raise UsageError(
                f"the {what} of the board on {self.port} is not ours to switch", "do it by hand, or use an emulated board"
            )
        return self._machine

    def _back_from(self, what: str) -> BoardInfo:
        try:
            ready = self._channel.await_kind(messages.Ready, self._handshake_timeout_s)
        except CableUnpluggedError as exc:
            raise self._explained(exc) from exc
        if ready is None:
            raise ReplyTimeoutError(f"the board on {self.port} did not come back after {what}", "switch it off and on")
        return self.identify()

    @property
    def name(self) -> str:
        """Name of the board's definition."""
        return self.definition.name

    @property
    def injected_faults(self) -> dict[str, int]:
        """How often each injected fault struck so far, as {"drop rx": 3}."""
        return dict(self._faulty.injected) if self._faulty is not None else {}

    @property
    def bad_frames(self) -> int:
        """Frames that arrived damaged since the port was opened."""
        return self._channel.decoder.bad_frames

    @property
    def input_quant(self) -> QuantParams:
        """Quantization of the observation, as the board reports it."""
        return QuantParams(self.info.input_scale, self.info.input_zero_point)

    @property
    def output_quant(self) -> QuantParams:
        """Quantization of the action, as the board reports it."""
        return QuantParams(self.info.output_scale, self.info.output_zero_point)

    def close(self) -> None:
        """Releases the port and ends an emulated board; may be called twice."""
        self._channel.link.close()
        if self._machine is not None:
            self._machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- frames -------------------------------------------------------------------------------------------------------

    def greet(self) -> BoardInfo:
        """Greets the board and returns what it says of itself, whatever it runs. Raises what the handshake raises."""
        try:
            return identify(self._channel, timeout_s=self._handshake_timeout_s, baud=self._baud)
        except CableUnpluggedError as exc:
            raise self._explained(exc) from exc

    def greeting(self) -> Greeting:
        """A greeting for a loop of one's own, in which other messages may come: see ``accept`` for the INFO that it yields."""
        return Greeting(self._channel)

    def next_seq(self) -> int:
        """The number of a frame that goes out through ``send_raw``."""
        return self._channel.next_seq()

    def send(self, message: Message) -> int:
        """Sends a request without waiting; returns its sequence number, which the reply will carry."""
        seq = self._channel.next_seq()
        self.send_raw(encode(message, seq))
        return seq

    def send_raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        try:
            self._channel.link.write(data)
        except CableUnpluggedError as exc:
            raise self._explained(exc) from exc

    def poll(self, timeout_s: float) -> Frame | None:
        """The next frame from the board, whatever it is; None when none came in time."""
        try:
            return self._channel.poll(timeout_s)
        except CableUnpluggedError as exc:
            raise self._explained(exc) from exc

    def request(self, message: Message, timeout_s: float | None = None) -> Message:
        """Sends a request and returns its reply.

        Raises:
            BoardStatusError: the board refused it.
            ReplyTimeoutError: no answer in ``timeout_s``; None: 1 s, 5 s of an emulated processor.
            BoardRebootedError: READY came instead.
            CableUnpluggedError: the port vanished.
        """
        return self._reply_to(self.send(message), message, self._patience_s(timeout_s))

    def _patience_s(self, timeout_s: float | None) -> float:
        return REPLY_TIMEOUT_S[self.definition.timing] if timeout_s is None else timeout_s

    def _reply_to(self, seq: int, message: Message, timeout_s: float) -> Message:
        deadline = time.perf_counter() + timeout_s
        left_s = timeout_s
        while (frame := self.poll(left_s)) is not None:
            reply = frame.message
            if isinstance(reply, messages.Ready):
                raise BoardRebootedError(
                    f"the board on {self.port} restarted before it answered {type(message).__name__}",
                    "its supply may sag or its firmware crash: look at the reset cause and the stack in its INFO",
                )
            if frame.seq == seq:
                if isinstance(reply, messages.Error):
                    raise status_error(reply.status, reply.detail, f"the board on {self.port} refused {type(message).__name__}")
                return reply
            self.unexpected_frames += 1
            left_s = deadline - time.perf_counter()
        raise ReplyTimeoutError(
            f"the board on {self.port} did not answer {type(message).__name__} within {timeout_s:g} s",
            "reset it; if that helps, its firmware hung",
        )

    # --- several requests in flight -----------------------------------------------------------------------------------

    def pipeline(self, requests: Sequence[Message], timeout_s: float | None = None) -> list[Message]:
        """Replies to ``requests``, in order, with as many in flight as the board's receive buffer holds.

        Raises what ``request`` raises; ``timeout_s`` counts from the latest reply.
        """
        patience_s = self._patience_s(timeout_s)
        window = max(self.info.rx_buffer, MIN_WINDOW_BYTES)
        in_flight: deque[tuple[int, Message, int]] = deque()
        in_flight_bytes = 0
        replies: list[Message] = []
        for message, seq, frame in self._frames_of(requests):
            while in_flight and in_flight_bytes + len(frame) > window:
                in_flight_bytes -= in_flight[0][2]
                replies.append(self._reply_to(*in_flight.popleft()[:2], patience_s))
            self.send_raw(frame)
            in_flight.append((seq, message, len(frame)))
            in_flight_bytes += len(frame)
        replies += [self._reply_to(seq, message, patience_s) for seq, message, _ in in_flight]
        return replies

    def _frames_of(self, requests: Iterable[Message]) -> Iterable[tuple[Message, int, bytes]]:
        for message in requests:
            seq = self._channel.next_seq()
            yield message, seq, encode(message, seq)

    def _explained(self, exc: CableUnpluggedError) -> CableUnpluggedError:
        """An emulated board does not lose its cable, unless it was cut on purpose: its process ended."""
        was_cut = self._faulty is not None and self._faulty.cut
        obituary = self._machine.obituary() if self._machine is not None and not was_cut else None
        if obituary is None:
            return exc
        return CableUnpluggedError(
            f"the emulated board {self.name} ended: {obituary}", "start it again; hil doctor checks what it needs"
        )
