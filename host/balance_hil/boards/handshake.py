"""Opening a session: ask who the board is, and when that fails say why.

A nonce in HELLO comes back in INFO, so that an answer left over from an earlier session is never taken for this one's.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import BoardDefinition
from balance_hil.bundle import Bundle
from balance_hil.errors import (
    ArenaTooSmallError,
    BoardStatusError,
    LinkError,
    ModelMismatchError,
    ModelNotInt8Error,
    NotOurFirmwareError,
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
from balance_hil.tflite.graph import builtin_name

HANDSHAKE_TIMEOUT_S = 3.0  # opening the port resets some boards, and those take up to 2 s to boot
BOOT_TIMEOUT_S = 20.0  # of an emulated board on a busy computer; that it died is noticed at once all the same
HELLO_INTERVAL_S = 0.25
BOOT_LOG_FACTOR = 5  # times the usual patience with a board that prints text
BOOTED_GRACE_S = 0.05  # a board that has just booted may still have the HELLO before it
READABLE_SHARE = 0.85  # of printable bytes: text; noise of a wrong baud rate has 40 %


class Greeting:
    """Says HELLO until the board says who it is. Once sent, it never waits: ``urge`` and ``answer`` fit into any loop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._nonce = secrets.randbits(32)
        self.since = time.monotonic()
        self.next_hello = self.since

    def urge(self) -> None:
        """Sends HELLO when it is time."""
        now = time.monotonic()
        if now >= self.next_hello:
            self._channel.link.write(b"\x00")  # ends whatever half frame a previous session left in the board's buffer
            self._channel.send(messages.Hello(self._nonce))
            self.next_hello = now + HELLO_INTERVAL_S

    def answer(self, message: Message) -> messages.Info | None:
        """The board's INFO, when ``message`` is that; else None. Raises ProtocolMismatchError."""
        match message:
            case messages.Info(nonce=answered) as info if answered == self._nonce:
                return info
            case messages.Ready():
                self.next_hello = time.monotonic() + BOOTED_GRACE_S  # then what was said before it booted is lost
            case OtherSchema() as other:
                raise _protocol_mismatch(self._channel, other)
        return None


def identify(channel: Channel, *, timeout_s: float = HANDSHAKE_TIMEOUT_S, baud: int | None = None) -> messages.Info:
    """Greets the board until it says who it is. While it prints text, a boot log perhaps, it is waited for five times as long.

    Raises:
        ProtocolMismatchError, SilentBoardError, NotOurFirmwareError, WrongBaudError, ReplyTimeoutError: why it did not.
        CableUnpluggedError: the port vanished.
    """
    greeting = Greeting(channel)
    deadline = greeting.since + timeout_s
    seen = 0
    while (now := time.monotonic()) < deadline:
        greeting.urge()
        frame = channel.poll(max(0.0, min(greeting.next_hello, deadline) - now))
        if frame is not None and (info := greeting.answer(frame.message)) is not None:
            return info
        if channel.decoder.bytes_seen > seen:
            seen = channel.decoder.bytes_seen
            if _readable(channel.raw_tail):
                deadline = min(time.monotonic() + timeout_s, greeting.since + BOOT_LOG_FACTOR * timeout_s)
    raise _diagnosis(channel, time.monotonic() - greeting.since, baud)


def check_model(info: messages.Info, bundle: Bundle, where: str, definition: BoardDefinition) -> None:
    """Raises unless the board runs the bundle's model and its engine accepted it.

    Raises:
        ModelMismatchError: another model, another normalization, or the same ones with other tables.
        UnsupportedOperatorError, ArenaTooSmallError, ModelNotInt8Error, BoardStatusError: the engine refuses the model.
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
    board = (info.n_obs, info.n_act, info.input_scale, info.input_zero_point, info.output_scale, info.output_zero_point)
    quant_in, quant_out = bundle.input_quant, bundle.output_quant
    wanted = (
        *(bundle.spec.n_obs, bundle.spec.n_act),
        *(quant_in.scale, quant_in.zero_point, quant_out.scale, quant_out.zero_point),
    )
    if board != wanted:
        raise ModelMismatchError(
            f"the board on {where} runs policy {info.model_id} but reads its tables otherwise: sizes, scales and zero points are "
            f"{board} there and {wanted} in the bundle",
            "its firmware misreads the model: build and flash it again",
        )


def _normalizes(crc: int) -> str:
    return f"normalizes its observations by {crc:08x}" if crc else "takes observations without normalization"


def _remedy(info: messages.Info, bundle: Bundle, definition: BoardDefinition) -> str:
    """How to bring the bundle to a board that runs another one."""
    if definition.is_emulated:
        lasting = f"start it with this bundle: hil emulate {bundle.path} --board {definition.name}"
    else:
        board = definition.name if definition.environment else info.board
        lasting = f"flash it first: hil flash {bundle.path} --board {board}"
    if not info.upload_size:
        return lasting
    return f"{lasting}; or replace it until the next reset, by adding --upload to this command"


def refused_model_error(
    info: messages.Info, where: str, wanted: str, status: int, detail: int, message: str
) -> UnsupportedOperatorError | ArenaTooSmallError | ModelNotInt8Error | BoardStatusError:
    """The error for a model that a board with this INFO was sent and does not take, from the result that it gave."""
    stays = f"it goes on with policy {info.model_id}" if info.model_id else "it still has none"
    engine_says = replace(info, engine_status=status, engine_detail=detail, engine_message=message)
    try:
        check_engine(engine_says, where)
    except BoardStatusError:
        reason = f" ({message})" if message else ""
        return status_error(status, detail, f"the board on {where} does not take policy {wanted}{reason}; {stays}")
    except (UnsupportedOperatorError, ArenaTooSmallError, ModelNotInt8Error) as exc:
        exc.message = f"{exc.message}; {stays}"
        return exc
    raise AssertionError("status ok is no refusal")


def check_engine(info: messages.Info, where: str) -> None:
    """Raises when the board's engine did not accept its model, whichever that is; see ``check_model``."""
    if info.engine_status == Status.OK:
        return
    reason = info.engine_message or f"detail {info.engine_detail}"
    match info.engine_status:
        case Status.UNSUPPORTED_OPERATOR:
            if info.engine == "int8":  # its detail is the operator's builtin code and number, its message says what of it
                code, number = divmod(info.engine_detail, 256)
                reason = f"{builtin_name(code)} (number {number}): {reason}"
            raise UnsupportedOperatorError(
                f"{info.engine} on {where} cannot run an operator of the model: {reason}",
                "export the deterministic actor alone: hil export; FULLY_CONNECTED, RELU and TANH run in int8",
            )
        case Status.ARENA_TOO_SMALL:
            needed = f"{info.engine_detail} bytes" if info.engine_detail else "more"
            sizes = f"the tensor arena is too small: the model needs {needed}, there were {info.arena_size}"
            raise ArenaTooSmallError(
                f"{info.engine} on {where} cannot load the model: {info.engine_message or sizes}",
                "give the firmware a larger arena, or train a smaller network",
                info.engine_detail,
            )
        case Status.MODEL_NOT_INT8:
            raise ModelNotInt8Error(
                f"the model on {where} does not take and return int8: {reason}", "export it again: hil export writes int8 models"
            )
    raise status_error(info.engine_status, info.engine_detail, f"the engine on {where} has no usable model ({reason})")


def status_error(status: int, detail: int, what: str) -> BoardStatusError:
    """The error for a status that the board returned; ``what`` says what it was asked."""
    name = Status(status).name.lower() if status in Status.__members__.values() else f"status_{status}"
    return BoardStatusError(
        f"{what}: {name}, detail {detail}", _STATUS_HINTS.get(status, _OTHER_STATUS), status=name, detail=detail
    )


_OTHER_STATUS = "the table of statuses in firmware/PROTOCOL.md says what it means"
_STATUS_HINTS: dict[int, str] = {
    Status.NOT_IDENTIFIED: "the board restarted or was never greeted: connect to it again",
    Status.WRONG_COUNT: "the observation must have as many elements as the model takes: INFO's n_obs",
    Status.NON_FINITE: "an observation holds a NaN or an infinity: look for its source in the environment",
    Status.OVERSIZED: "send less in one message: INFO's max_payload is the limit",
    Status.NO_GOLDEN_VECTORS: "build the firmware with the bundle's model.h, which carries them",
    Status.NO_MODEL: "give the board a model: hil emulate ppo --board native, or hil flash ppo --board teensy41",
    Status.SELF_TEST_FAILED: "its engine computes this model wrongly (an old TFLM ignores scales per channel): link a current "
    "library, take the compact engine, or export per tensor",
    Status.NO_ROOM: "detail is how many bytes it has for an upload (INFO's upload_size); flash the policy instead: hil flash",
    Status.UPLOAD_DAMAGED: "every frame passed its checksum and the whole did not: try again, then suspect the board's memory",
    Status.OTHER_MODEL: "the bundle does not describe its model: export it again",
    Status.VECTORS_DIFFER: "its engine computes this model otherwise than TensorFlow Lite Micro: which layer, says hil compare",
    Status.ENGINE_LOST: "the process that runs the engine ended: start the board again; what it needs: hil doctor",
}


def _protocol_mismatch(channel: Channel, other: OtherSchema) -> ProtocolMismatchError:
    where = channel.link.description
    if other.protocol != messages.PROTOCOL_VERSION:
        fact = f"the board on {where} speaks protocol {other.protocol}, this program speaks {messages.PROTOCOL_VERSION}"
    else:
        fact = (
            f"the board on {where} was built from another message schema ({other.schema_crc:08x}), this program has "
            f"{messages.SCHEMA_CRC:08x}"
        )
    return ProtocolMismatchError(fact, "build the firmware from the same checkout as this program and flash it again")


def _diagnosis(channel: Channel, waited_s: float, baud: int | None) -> LinkError:
    """Why nobody answered, from what arrived."""
    where, decoder = channel.link.description, channel.decoder
    if decoder.bytes_seen == 0:
        return SilentBoardError(
            f"the board on {where} is silent: not one byte in {waited_s:.2g} s",
            "does it have power, is it flashed, is this its port? What is plugged in where: hil boards",
        )
    if decoder.frames:
        return ReplyTimeoutError(
            f"the board on {where} sends frames but did not say who it is in {waited_s:.2g} s "
            f"({decoder.frames} good, {decoder.bad_frames} damaged)",
            "reset it; if frames arrive damaged, look at cable, hub and baud rate",
        )
    text = _readable(channel.raw_tail)
    if text is not None:
        return NotOurFirmwareError(
            f"the board on {where} does not run this project's firmware: for {waited_s:.2g} s it says {text!r}",
            "if it still boots, try again later; else flash it: hil flash ppo --board NAME (names: hil boards)",
        )
    rate = f" at {baud} baud" if baud else ""
    return WrongBaudError(
        f"{decoder.bytes_seen} bytes arrived from {where}{rate} and none of them decode: the baud rates differ",
        "give the baud rate that the firmware was built with: --baud 115200",
    )


def _readable(raw: bytes) -> str | None:
    """The last line of ``raw`` when it is text, else None."""
    printable = sum(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in raw)
    if printable < READABLE_SHARE * len(raw):
        return None
    lines = [line.strip() for line in raw.decode("ascii", "replace").splitlines() if line.strip()]
    return lines[-1][-80:] if lines else ""
