"""A session with one board: opening it, identifying the board, reset and power."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import ANY_SERIAL, BoardDefinition, find_definition
from balance_hil.boards.handshake import (
    BOOT_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    HELLO_INTERVAL_S,
    Handshake,
    check_model,
    identify,
)
from balance_hil.boards.kinds import find_kind
from balance_hil.boards.pieces import LARGEST_TENSOR
from balance_hil.boards.power import reopened, switch
from balance_hil.boards.profile import CostUnit
from balance_hil.boards.requests import Requests
from balance_hil.bundle import Bundle
from balance_hil.errors import CableUnpluggedError, LinkError, ReplyTimeoutError, UnknownBoardError, UsageError
from balance_hil.link import Fault, FaultyLink, Link, faults, parse_faults
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Info
from balance_hil.quantize import FLOAT32, NUMBERED_ELEMENT_TYPES
from balance_hil.tflite.graph import read_graph

BoardInfo = Info
BOOTLOADER_TIMEOUT_S = 0.5  # by then a board without a boot loader has said so


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


class Session(Requests):
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
            super().__init__(Channel(self._harmed(link), self._explained), definition.timing)
        except UsageError:
            link.close()
            raise
        try:
            self.info = self._introduce()
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
        ready = self._channel.await_kind(messages.Ready, self._handshake_timeout_s)
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
        return identify(self._channel, timeout_s=self._handshake_timeout_s, baud=self._baud)

    def start_handshake(self, now: Callable[[], float] | None = None, interval_s: float = HELLO_INTERVAL_S) -> Handshake:
        """A handshake for a caller's own receive loop, on its clock, a HELLO per ``interval_s``; pass INFO to ``accept``."""
        return Handshake(self._channel, now, interval_s)

    def _explained(self, exc: CableUnpluggedError) -> CableUnpluggedError:
        """For an emulated board, a lost connection means that its process ended, unless fault injection cut the link."""
        was_cut = self.faults is not None and self.faults.cut
        exit_report = self._machine.exit_report() if self._machine is not None and not was_cut else None
        if exit_report is None:
            return exc
        return CableUnpluggedError(
            f"the emulated board {self.name} ended: {exit_report}", "start it again; check the installation: hil doctor"
        )
