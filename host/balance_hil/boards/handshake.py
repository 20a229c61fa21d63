"""Opening a session: identify the board, or report why that failed.

INFO returns the nonce of HELLO, so a stale answer from an earlier session is not accepted.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import replace

from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import BoardDefinition
from balance_hil.bundle import Bundle
from balance_hil.errors import (
    ArenaTooSmallError,
    BoardStatusError,
    CableUnpluggedError,
    ElementTypeError,
    HarnessError,
    LinkError,
    ModelMismatchError,
    NotOurFirmwareError,
    PortBusyError,
    ProtocolMismatchError,
    ReplyTimeoutError,
    SilentBoardError,
    UnsupportedOperatorError,
    WrongBaudError,
)
from balance_hil.model_image import normalization_crc
from balance_hil.protocol import messages
from balance_hil.protocol.codec import OtherSchema
from balance_hil.protocol.messages import Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import NUMBERED_ELEMENT_TYPES
from balance_hil.tflite.graph import builtin_name

HANDSHAKE_TIMEOUT_S = 3.0  # opening the port resets some boards, and those take up to 2 s to boot
BOOT_TIMEOUT_S = 20.0  # of an emulated board on a busy computer; if its process ends, that is detected at once
HELLO_INTERVAL_S = 0.25
BOOT_LOG_FACTOR = 5  # timeout factor for a board that prints text or sends its INFO slowly
BOOTED_GRACE_S = 0.05  # a HELLO sent before the boot may still be answered
BUSY_LINE = "busy: this board serves one program at a time, and {} uses it\r\n"  # ``hil emulate`` to a second client
BUSY_WORDS = re.compile(r"\bbusy\b|\bin use\b", re.IGNORECASE)  # ser2net: "Port already in use"
READABLE_SHARE = 0.85  # of printable bytes in text; noise at a wrong baud rate has 40 %


class Handshake:
    """Sends HELLO until INFO arrives. Neither ``send_if_due`` nor ``answer`` blocks, so both fit into any loop."""

    def __init__(self, channel: Channel, now: Callable[[], float] | None = None, interval_s: float = HELLO_INTERVAL_S) -> None:
        self._channel = channel
        self._interval_s = interval_s
        self._nonce = secrets.randbits(32)
        self.now = now or channel.now_s
        self.since = self.now()
        self.next_hello = self.since

    def send_if_due(self) -> None:
        """Sends HELLO if the interval has passed."""
        now = self.now()
        if now >= self.next_hello:
            self._channel.link.write(b"\x00")  # terminates a partial frame from an earlier session
            self._channel.send(messages.Hello(self._nonce))
            self.next_hello = now + self._interval_s

    def answer(self, message: Message) -> messages.Info | None:
        """``message`` if it is the board's INFO; else None. Raises ProtocolMismatchError."""
        match message:
            case messages.Info(nonce=answered) as info if answered == self._nonce:
                return info
            case messages.Ready():
                self.next_hello = self.now() + BOOTED_GRACE_S  # a HELLO sent before the boot is lost
            case OtherSchema() as other:
                raise _protocol_mismatch(self._channel, other)
        return None


def identify(channel: Channel, *, timeout_s: float = HANDSHAKE_TIMEOUT_S, baud: int | None = None) -> messages.Info:
    """Sends HELLO until INFO arrives. While the board prints text, such as a boot log, or sends slowly, the timeout is five times
    as long.

    Raises:
        ProtocolMismatchError, SilentBoardError, NotOurFirmwareError, WrongBaudError, ReplyTimeoutError: cause of the failure.
        PortBusyError: the server behind a URL says that another program uses the port.
        CableUnpluggedError: the port vanished, or the server behind a URL closed the connection.
    """
    try:
        return _identify(channel, timeout_s, baud)
    except CableUnpluggedError as exc:
        if "://" not in channel.link.description:
            raise
        raise _closed(channel, exc) from exc


def _identify(channel: Channel, timeout_s: float, baud: int | None) -> messages.Info:
    handshake = Handshake(channel)
    deadline = handshake.since + timeout_s
    seen = 0
    while (now := channel.now_s()) < deadline:
        handshake.send_if_due()
        frame = channel.poll(max(0.0, min(handshake.next_hello, deadline) - now))
        if frame is not None and (info := handshake.answer(frame.message)) is not None:
            return info
        if channel.decoder.bytes_seen > seen:
            seen = channel.decoder.bytes_seen
            if _readable(channel.raw_tail) or channel.decoder.handshake_begun:
                deadline = min(channel.now_s() + timeout_s, handshake.since + BOOT_LOG_FACTOR * timeout_s)
    raise _diagnosis(channel, channel.now_s() - handshake.since, baud)


def check_model(info: messages.Info, bundle: Bundle, where: str, definition: BoardDefinition) -> None:
    """Raises unless the board runs the bundle's model and its engine has accepted it.

    Raises:
        ModelMismatchError: another model or normalization, or the same ones with other sizes or scales.
        UnsupportedOperatorError, ArenaTooSmallError, ElementTypeError, BoardStatusError: the engine rejects the model.
    """
    ours, theirs = normalization_crc(bundle.normalization), info.normalization_crc
    if info.model_id and ours != theirs:
        raise ModelMismatchError(
            f"the board on {where} runs policy {info.model_id}, which {_normalizes(theirs)}; this run needs {bundle.id}, which "
            f"{_normalizes(ours)}",
            _remedy(info, bundle, definition),
        )
    if info.model_id and info.model_id != bundle.id:
        raise ModelMismatchError(
            f"the board on {where} runs policy {info.model_id}, this run needs {bundle.id}", _remedy(info, bundle, definition)
        )
    check_engine(info, where)
    if info.element_type != bundle.kind.number:
        kind = NUMBERED_ELEMENT_TYPES.get(info.element_type)
        reported = kind.name if kind is not None else "unknown"
        raise ModelMismatchError(
            f"the board on {where} runs policy {info.model_id} but reports {reported} inputs and outputs, the bundle has "
            f"{bundle.kind.name}",
            "build and flash its firmware again",
        )
    board = (info.n_obs, info.n_act, info.input_scale, info.input_zero_point, info.output_scale, info.output_zero_point)
    quant_in, quant_out = bundle.input_quant, bundle.output_quant
    wanted = (
        *(bundle.spec.n_obs, bundle.spec.n_act),
        *(quant_in.scale, quant_in.zero_point, quant_out.scale, quant_out.zero_point),
    )
    if board != wanted:
        raise ModelMismatchError(
            f"the board on {where} runs policy {info.model_id} but reports other sizes, scales or zero points: "
            f"{board}, the bundle has {wanted}",
            "build and flash its firmware again",
        )


def _normalizes(crc: int) -> str:
    return f"normalizes its observations by {crc:08x}" if crc else "takes observations without normalization"


def _remedy(info: messages.Info, bundle: Bundle, definition: BoardDefinition) -> str:
    """Hint: how to install the bundle on a board that runs another one."""
    if definition.is_emulated:
        lasting = f"start it with this bundle: hil emulate {bundle.path} --board {definition.name}"
    else:
        board = definition.name if definition.environment else info.board
        lasting = f"flash it first: hil flash {bundle.path} --board {board}"
    if not info.upload_size:
        return lasting
    return f"{lasting}; or add --upload to this command, which replaces it until the next reset"


def refused_model_error(
    info: messages.Info, where: str, wanted: str, status: int, detail: int, message: str
) -> UnsupportedOperatorError | ArenaTooSmallError | ElementTypeError | BoardStatusError:
    """The error for a model that was uploaded and rejected, from the board's result."""
    stays = f"it keeps policy {info.model_id}" if info.model_id else "it still has none"
    engine_says = replace(info, engine_status=status, engine_detail=detail, engine_message=message)
    try:
        check_engine(engine_says, where)
    except BoardStatusError:
        reason = f" ({message})" if message else ""
        return status_error(status, detail, f"the board on {where} rejected policy {wanted}{reason}; {stays}")
    except (UnsupportedOperatorError, ArenaTooSmallError, ElementTypeError) as exc:
        exc.message = f"{exc.message}; {stays}"
        return exc
    raise AssertionError("status ok is not an error")


def check_engine(info: messages.Info, where: str) -> None:
    """Raises if the board's engine rejected the board's own model; see ``check_model``."""
    if info.engine_status == Status.OK:
        return
    reason = info.engine_message or f"detail {info.engine_detail}"
    match info.engine_status:
        case Status.UNSUPPORTED_OPERATOR:
            if info.engine == "int8":  # detail: the operator's builtin code and number; message: the reason
                code, number = divmod(info.engine_detail, 256)
                reason = f"{builtin_name(code)} (number {number}): {reason}"
            raise UnsupportedOperatorError(
                f"{info.engine} on {where} cannot run an operator of the model: {reason}",
                "an image has the operators of the model that it was built with: flash this one, hil flash; "
                "or use what runs more: --engine tflm, or --board native",
            )
        case Status.ARENA_TOO_SMALL:
            needed = f"{info.engine_detail} bytes" if info.engine_detail else "more"
            sizes = f"the tensor arena is too small: the model needs {needed}, the arena has {info.arena_size}"
            raise ArenaTooSmallError(
                f"{info.engine} on {where} cannot load the model: {info.engine_message or sizes}",
                # TFLM's dense kernel with CMSIS-NN refuses int16 activations in the call in which memory runs out.
                "give the firmware a larger arena, or train a smaller network"
                + ("; of int16x8, CMSIS-NN takes one scale per tensor: hil export --per-tensor" if info.engine == "tflm" else ""),
                info.engine_detail,
            )
        case Status.MODEL_NOT_INT8:
            raise ElementTypeError(
                f"{info.engine} on {where} does not run the element type of the model: {reason}",
                "use an int8 model, hil export --quantize int8; or TensorFlow Lite Micro, built for this model: --engine tflm",
            )
    raise status_error(info.engine_status, info.engine_detail, f"the engine on {where} has no usable model ({reason})")


def status_error(status: int, detail: int, what: str) -> BoardStatusError:
    """The error for a status that the board returned; ``what`` describes the request."""
    name = Status(status).name.lower() if status in Status.__members__.values() else f"status_{status}"
    return BoardStatusError(
        f"{what}: {name}, detail {detail}", _STATUS_HINTS.get(status, _OTHER_STATUS), status=name, detail=detail
    )


_OTHER_STATUS = "see the table of statuses in firmware/PROTOCOL.md"
_STATUS_HINTS: dict[int, str] = {
    Status.NOT_IDENTIFIED: "the board restarted or no handshake was made: connect again",
    Status.WRONG_COUNT: "the observation must have n_obs elements, as reported in INFO",
    Status.NOT_SUPPORTED: "a layer is shown if its type is that of the model's input, and if the arena keeps every tensor: "
    "compare without layers, --layer-samples 0",
    Status.NON_FINITE: "an observation contains NaN or infinity: check the environment",
    Status.OVERSIZED: "send smaller messages: max_payload in INFO is the limit",
    Status.NO_GOLDEN_VECTORS: "build the firmware with the bundle's model.h, which contains them",
    Status.MODEL_INVALID: "if it has more inputs or outputs than the model that the firmware was built with, flash it: hil flash",
    Status.NO_MODEL: "install a model: hil emulate ppo --board native, or hil flash ppo --board teensy41",
    Status.SELF_TEST_FAILED: "the engine computes wrong outputs (an old TFLM ignores per-channel scales): link a current "
    "library, use the compact engine, or export with --per-tensor",
    Status.NO_ROOM: "detail is the board's upload limit in bytes (upload_size in INFO); flash the policy instead: hil flash",
    Status.UPLOAD_DAMAGED: "all frames passed their checksum but the whole did not: try again; if it recurs, check its memory",
    Status.OTHER_MODEL: "the bundle does not describe its model: export it again",
    Status.VECTORS_DIFFER: "its engine differs from TensorFlow Lite Micro on this model; hil compare shows the layer",
    Status.VERIFYING: "repeat LOAD_COMMIT until the upload is verified, or abort it",
    Status.ENGINE_LOST: "the engine process ended: restart the board; check the installation: hil doctor",
}


def _protocol_mismatch(channel: Channel, other: OtherSchema) -> ProtocolMismatchError:
    where = channel.link.description
    if other.protocol != messages.PROTOCOL_VERSION:
        fact = f"the board on {where} uses protocol {other.protocol}, this program uses {messages.PROTOCOL_VERSION}"
    else:
        fact = (
            f"the board on {where} was built from another message schema ({other.schema_crc:08x}), this program has "
            f"{messages.SCHEMA_CRC:08x}"
        )
    return ProtocolMismatchError(fact, "flash the firmware of this program: hil flash POLICY --board NAME; restart hil emulate")


def _diagnosis(channel: Channel, waited_s: float, baud: int | None) -> LinkError:
    """The error for a missing answer, diagnosed from the received bytes."""
    where, decoder = channel.link.description, channel.decoder
    if decoder.bytes_seen == 0 and where.startswith("socket://"):  # the connection alone says nothing: the system makes it
        return SilentBoardError(
            f"nothing answers behind {where}: no byte received in {waited_s:.2g} s; it may be busy with another program",
            "such a port serves one program at a time (hil emulate's does): close the other one; or the board has no power",
        )
    if decoder.bytes_seen == 0:
        return SilentBoardError(
            f"the board on {where} is silent: no byte received in {waited_s:.2g} s",
            "check that it has power, is flashed and is on this port; list ports and boards: hil boards",
        )
    if decoder.handshake_begun:
        return ReplyTimeoutError(
            f"the board on {where} answers too slowly: in {waited_s:.2g} s only a part of its INFO arrived",
            "check what is in between: a USB hub, a serial server, a radio link",
        )
    if decoder.frames:
        return ReplyTimeoutError(
            f"the board on {where} sends frames but did not answer the handshake within {waited_s:.2g} s "
            f"({decoder.frames} good, {decoder.bad_frames} damaged)",
            "reset it; if frames arrive damaged, check cable, hub and baud rate",
        )
    text = _readable(channel.raw_tail)
    if text is not None:
        return NotOurFirmwareError(
            f"the board on {where} does not run this project's firmware: in {waited_s:.2g} s it printed {text!r}",
            "if it is still booting, try again later; otherwise flash it: hil flash ppo --board NAME (names: hil boards)",
        )
    if not _has_baud_rate(where):
        return NotOurFirmwareError(
            f"{decoder.bytes_seen} bytes arrived from {where}, neither frames nor text: this is not one of our boards",
            "check the port; behind a serial server, also the baud rate that it is set to",
        )
    rate = f" at {baud} baud" if baud else ""
    return WrongBaudError(
        f"{decoder.bytes_seen} bytes arrived from {where}{rate} and none can be decoded: the baud rates differ",
        "pass the baud rate that the firmware was built with: --baud 115200",
    )


def _has_baud_rate(where: str) -> bool:
    """Whether the baud rate of ``where`` is set here and means anything: not of a raw connection or a pseudo-terminal."""
    return not where.startswith("socket://") and not os.path.realpath(where).startswith("/dev/pts/")


def _closed(channel: Channel, exc: CableUnpluggedError) -> HarnessError:
    """The error for a server that closed the connection during the handshake, from its last output."""
    where = channel.link.description
    with contextlib.suppress(CableUnpluggedError):  # a write may have failed before they were read
        while data := channel.link.read(0.0):
            channel.raw_tail += data
    if channel.decoder.frames:
        return exc
    text = _readable(channel.raw_tail)
    if not text:
        return CableUnpluggedError(
            f"the server behind {where} closed the connection before a board answered",
            "another program may use the board, or another service listens there: check host and port",
        )
    if BUSY_WORDS.search(text):
        return PortBusyError(f"{where} is busy; its server says {text!r}", "close the other program and try again")
    return NotOurFirmwareError(
        f"no board is behind {where}: its server says {text!r} and closed the connection", "check host and port"
    )


def _readable(raw: bytes) -> str | None:
    """The last line of ``raw`` when it is text, else None."""
    printable = sum(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in raw)
    if printable < READABLE_SHARE * len(raw):
        return None
    lines = [line.strip() for line in raw.decode("ascii", "replace").splitlines() if line.strip()]
    return lines[-1][-80:] if lines else ""
