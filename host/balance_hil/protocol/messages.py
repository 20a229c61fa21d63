"""Messages of the wire protocol.

Generated from schema.toml by ``python -m balance_hil.protocol.generate``: do not edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from balance_hil.protocol import wire

PROTOCOL_VERSION = 5
MAX_PAYLOAD = 1024
MAX_TEXT = 4352
PARTIAL_FRAME_TIMEOUT_MS = 250
WATCHDOG_MS = 100
ACTION_TENSOR = 65533
INPUT_TENSOR = 65534
OUTPUT_TENSOR = 65535
SCHEMA_CRC = 0xF97DB9A0
HANDSHAKE_TYPES = frozenset({0x80, 0xC0, 0xC1})  # their CRC is not seeded with the schema
REPLY_TYPES = {
    0x80: 0xC1,  # HELLO: INFO
    0x81: 0xC2,  # INFER: ACTION
    0x82: 0xC2,  # INFER_INT8: ACTION
    0x83: 0xC3,  # TENSOR: TENSOR_DATA
    0x90: 0xC3,  # INPUT_DATA: TENSOR_DATA
    0x91: 0xC3,  # OBSERVATION_DATA: TENSOR_DATA
    0x92: 0xCD,  # INFER_STORED: INFERRED
    0x84: 0xC4,  # SELF_TEST: SELF_TEST_RESULT
    0x8F: 0xCC,  # PROFILE: PROFILE_RESULT
    0x85: 0xC5,  # STATS_REQUEST: STATS
    0x86: 0xC6,  # SET_WATCHDOG: WATCHDOG
    0x8D: 0xCB,  # SET_TEXT_LINE: TEXT_LINE
    0x87: 0xC7,  # ECHO: ECHO_REPLY
    0x88: 0xC0,  # RESET: READY
    0x89: 0xC9,  # LOAD_BEGIN: LOAD_PROGRESS
    0x8A: 0xC9,  # LOAD_DATA: LOAD_PROGRESS
    0x8B: 0xCA,  # LOAD_COMMIT: LOAD_RESULT
    0x8C: 0xC9,  # LOAD_ABORT: LOAD_PROGRESS
}  # ERROR may come instead of each


class Status(IntEnum):
    """Why a request was refused."""

    OK = 0  # done
    NOT_IDENTIFIED = 1  # the request came before a HELLO was answered
    UNKNOWN_TYPE = 2  # no request has this type; detail: the type
    WRONG_LENGTH = 3  # the payload does not have the layout of its type; detail: its length in bytes
    WRONG_COUNT = 4  # an array or line has the wrong number of elements; detail: how many the model takes
    NON_FINITE = 5  # an observation holds a NaN or an infinity; detail: its index
    OVERSIZED = 6  # the frame, line or reply is longer than the limit; detail: the limit in bytes
    NO_SUCH_OPERATOR = 7  # the model has fewer operators; detail: how many it has
    NO_INFERENCE_YET = 8  # a tensor was asked for before any inference
    NO_GOLDEN_VECTORS = 9  # a self-test was asked for and the image holds no vectors; or an upload carries none
    MALFORMED_LINE = 10  # a text line is not comma-separated numbers
    NOT_SUPPORTED = 11  # this engine or board cannot do that; detail: the engine's own code
    NO_MODEL = 12  # no model was given to the board
    MODEL_INVALID = 13  # the model is not a readable .tflite, or not of one input and one output
    MODEL_NOT_INT8 = 14  # the model's input or output is of an element type that the engine or the image does not run
    UNSUPPORTED_OPERATOR = 15  # the engine cannot run an operator of the model; INFO's engine_message names it
    ARENA_TOO_SMALL = 16  # the tensor arena is too small; detail: bytes needed (0 = unknown)
    INFERENCE_FAILED = 17  # the engine reported an error; detail: its own code
    ENGINE_LOST = 18  # the process that runs the engine is gone
    SELF_TEST_FAILED = 19  # at start-up the engine did not reproduce the golden vectors; detail: how many it got wrong
    NO_ROOM = (
        20  # the upload is larger than the memory that the board has for it; detail: bytes there are (0: it takes no uploads)
    )
    NO_UPLOAD = 21  # no upload of this number is open; detail: number of the one that is (0 = none)
    WRONG_OFFSET = 22  # the piece does not continue what was received; detail: the offset to go on from, or the tensor's size
    UPLOAD_INCOMPLETE = 23  # pieces of the upload are missing; detail: bytes received
    UPLOAD_DAMAGED = 24  # what was received, an upload or an input in pieces, has another CRC than announced; detail: its CRC
    OTHER_MODEL = 25  # the model received has another id, or other sizes, than announced; detail: its inputs << 16 | outputs
    VECTORS_DIFFER = 26  # the engine does not reproduce the vectors that came with the upload; detail: how many it got wrong
    LINE_DAMAGED = 27  # the checksum of a text line is wrong
    TEXT_LINE_OFF = 28  # text lines are switched off
    VERIFYING = (
        29  # an upload is being verified: observations and other uploads are refused meanwhile; detail: vectors not replayed yet
    )


@dataclass(frozen=True, eq=False)
class Hello(wire.Message, type=0x80, layout="u32"):
    """Host to board: requests INFO; opens the session. Answered by INFO."""

    nonce: int  # returned in INFO: identifies the session that the reply belongs to


@dataclass(frozen=True, eq=False)
class Infer(wire.Message, type=0x81, layout="f32[]"):
    """Host to board: normalize, quantize, infer, dequantize. Answered by ACTION."""

    observation: NDArray[np.float32]  # [n_obs], as the environment gives it


@dataclass(frozen=True, eq=False)
class InferInt8(wire.Message, type=0x82, layout="i8[]"):
    """Host to board: infer from a raw input. Answered by ACTION."""

    input: NDArray[np.int8]  # bytes of [n_obs] raw values, of the element type in INFO


@dataclass(frozen=True, eq=False)
class Tensor(wire.Message, type=0x83, layout="u16 u32"):
    """Host to board: requests the output of one operator in the last inference, from an offset. Answered by TENSOR_DATA."""

    op: int  # operator index in execution order
    offset: int  # B; first byte wanted


@dataclass(frozen=True, eq=False)
class InputData(wire.Message, type=0x90, layout="u32 i8[]"):
    """Host to board: fills a part of the model's input; answered by what lies there. Answered by TENSOR_DATA."""

    offset: int  # B; of the first byte
    values: NDArray[np.int8]  # bytes of raw values


@dataclass(frozen=True, eq=False)
class ObservationData(wire.Message, type=0x91, layout="u32 f32[]"):
    """Host to board: the same, normalized and quantized from a part of an observation. Answered by TENSOR_DATA."""

    offset: int  # of the first value
    values: NDArray[np.float32]  # as the environment gives them


@dataclass(frozen=True, eq=False)
class InferStored(wire.Message, type=0x92, layout="u32"):
    """Host to board: infers from the input that was sent in pieces, and dequantizes. Answered by INFERRED."""

    input_crc: int  # CRC-32 (zlib) of the whole input, raw values [n_obs]: with another one nothing is inferred


@dataclass(frozen=True, eq=False)
class SelfTest(wire.Message, type=0x84):
    """Host to board: replays the golden vectors in the image. Answered by SELF_TEST_RESULT."""


@dataclass(frozen=True, eq=False)
class Profile(wire.Message, type=0x8F, layout="f32[]"):
    """Host to board: safe state; times one inference and each of its parts, for about 20 ms. Answered by PROFILE_RESULT."""

    observation: NDArray[
        np.float32
    ]  # [n_obs], as the environment gives it; empty on a board that takes pieces: the input that it has


@dataclass(frozen=True, eq=False)
class StatsRequest(wire.Message, type=0x85):
    """Host to board: requests the counters. Answered by STATS."""


@dataclass(frozen=True, eq=False)
class SetWatchdog(wire.Message, type=0x86, layout="u32"):
    """Host to board: sets the time without an observation after which the board enters the safe state. Answered by WATCHDOG."""

    timeout_ms: int  # ms; 0 disables the watchdog; reset at the end of the session


@dataclass(frozen=True, eq=False)
class SetTextLine(wire.Message, type=0x8D, layout="u8"):
    """Host to board: enables or disables text lines. Answered by TEXT_LINE."""

    enabled: int  # 0 disables text lines; reset at the end of the session


@dataclass(frozen=True, eq=False)
class Echo(wire.Message, type=0x87, layout="u8[]"):
    """Host to board: measures the link. Answered by ECHO_REPLY."""

    data: bytes  # at most max_payload - 2 bytes


@dataclass(frozen=True, eq=False)
class Reset(wire.Message, type=0x88):
    """Host to board: reboots the board. Answered by READY."""


@dataclass(frozen=True, eq=False)
class EnterBootloader(wire.Message, type=0x8E):
    """Host to board: leaves the firmware for the boot loader of the chip; answered only by ERROR, where there is none."""


@dataclass(frozen=True, eq=False)
class LoadBegin(wire.Message, type=0x89, layout="u32 u32 u8 u16 u32 u32 u32 string u8"):
    """Host to board: announces a model and its vectors; repeated, it requests the progress. Answered by LOAD_PROGRESS."""

    transfer: int  # not 0
    model_size: int  # B; bytes of the .tflite
    normalized: int  # 1: f32 mean [n_obs], inverse_std [n_obs] and clip lie between model and vectors
    n_self_test: int  # number of golden vectors, at least 1
    n_obs: int  # elements of the model's input
    n_act: int  # elements of the model's output
    crc: int  # CRC-32 (zlib) of the upload: model, normalization, raw inputs [n_self_test, n_obs], raw outputs
    model_id: str  # first 12 hex digits of the SHA-256 of model and normalization
    element_type: int  # of raw values: 0 int8, 1 int16 (int16x8), 2 float32


@dataclass(frozen=True, eq=False)
class LoadData(wire.Message, type=0x8A, layout="u32 u32 u8[]"):
    """Host to board: one chunk of the upload; a chunk already received is acknowledged again. Answered by LOAD_PROGRESS."""

    transfer: int
    offset: int  # B; from the start of the upload
    data: bytes


@dataclass(frozen=True, eq=False)
class LoadCommit(wire.Message, type=0x8B, layout="u32"):
    """Host to board: safe state, verification, activation; repeated: progress, then result. Answered by LOAD_RESULT."""

    transfer: int


@dataclass(frozen=True, eq=False)
class LoadAbort(wire.Message, type=0x8C, layout="u32"):
    """Host to board: discards the upload. Answered by LOAD_PROGRESS."""

    transfer: int


@dataclass(frozen=True, eq=False)
class Ready(wire.Message, type=0xC0, layout="u16 u32 u8"):
    """Board to host: sent once after every boot, with sequence number 0."""

    protocol: int  # protocol version
    schema_crc: int  # CRC of the canonical schema text
    reset_cause: int  # 0 power on, 1 requested by RESET, 2 hardware watchdog, 255 unknown


@dataclass(frozen=True, eq=False)
class Info(
    wire.Message,
    type=0xC1,
    layout="u16 u32 u32 string string string string string u8 u32 string string u32 u32 u32 u16 f32 i8 f32 i8 "
    "u16 u32 u32 u32 u32 u16 u16 u32 u32 u32 u32 u8 u32 u8",
):
    """Board to host: identity of the board, its firmware, engine and model."""

    protocol: int  # protocol version
    schema_crc: int  # CRC of the canonical schema text
    nonce: int  # nonce of the HELLO
    firmware_commit: str  # git commit that the firmware was built from, 12 hex digits; + appended: with local changes
    board: str  # name of the board
    processor: str  # instruction set or core
    engine: str  # name of the inference engine
    engine_version: str  # version or commit of the engine
    engine_status: int  # status of loading the model; not ok: every inference is refused with it
    engine_detail: int  # detail of engine_status
    engine_message: str  # error message of the engine; empty when ok
    model_id: str  # first 12 hex digits of the SHA-256 of model and normalization
    normalization_crc: int  # CRC-32 (zlib) of mean, inverse_std and clip; 0 = observations are not normalized
    n_obs: int  # elements of the observation
    n_act: int  # elements of the action
    n_ops: int  # operators of the model
    input_scale: float  # quantization of the (normalized) observation
    input_zero_point: int
    output_scale: float  # quantization of the action
    output_zero_point: int
    n_self_test: int  # golden vectors in the image
    arena_used: int  # B; size of the tensor arena that the model uses
    arena_size: int  # B; size of the tensor arena
    clock_hz: int  # Hz; processor clock; 0 = unknown
    rx_buffer: int  # B; bytes that may be in flight to the board
    max_payload: int  # B; longest payload that the board accepts
    max_text: int  # B; longest text line that the board accepts, without its line end; 0 = disabled
    watchdog_ms: int  # ms; 0 = off
    stack: int  # B; peak stack usage so far; 0 = unknown
    ram: int  # B; static RAM of the image; 0 = unknown
    flash: int  # B; size of the image; 0 = unknown
    uploaded: int  # 1: the model was uploaded by LOAD and is lost on reset
    upload_size: int  # B; longest upload that the board accepts: model, normalization and vectors; 0 = none
    element_type: int  # of raw values, the model's inputs and outputs: 0 int8, 1 int16 (int16x8), 2 float32


@dataclass(frozen=True, eq=False)
class Action(wire.Message, type=0xC2, layout="u8 i8[] i8[] f32[] u32 u32"):
    """Board to host: result of one inference."""

    status: int  # ok; an inference that fails is answered by ERROR
    input: NDArray[np.int8]  # bytes of [n_obs] raw values, input of the model
    output: NDArray[np.int8]  # bytes of [n_act] raw values, output of the model
    action: NDArray[np.float32]  # [n_act], dequantized
    inference_us: int  # us; time in the engine
    total_us: int  # us; from the last byte of the request until the reply is ready


@dataclass(frozen=True, eq=False)
class TensorData(wire.Message, type=0xC3, layout="u16 u32 u32 i8[]"):
    """Board to host: output of one operator, or as much of it as a frame holds."""

    op: int  # index in the TENSOR request
    offset: int  # of the request
    size: int  # B; of the whole output
    values: NDArray[np.int8]  # bytes of raw values, row-major, from the offset on: all that fit


@dataclass(frozen=True, eq=False)
class Inferred(wire.Message, type=0xCD, layout="u32 u32 u32 u32 u32"):
    """Board to host: an inference is done; TENSOR reads its output."""

    input_crc: int  # CRC-32 (zlib) of the input, raw values [n_obs]
    output_crc: int  # of the output, raw values [n_act]
    action_crc: int  # of the action, float32 [n_act]
    inference_us: int  # us; time in the engine
    total_us: int  # us; from the last byte of the request until the reply is ready


@dataclass(frozen=True, eq=False)
class SelfTestResult(wire.Message, type=0xC4, layout="u8 u16 u16 u16"):
    """Board to host: result of the self-test."""

    status: int  # ok when every vector was replayed, even if outputs differ
    count: int  # vectors replayed
    mismatches: int  # vectors whose output differs
    first_mismatch: int  # index of the first mismatch; 65535 = none


@dataclass(frozen=True, eq=False)
class ProfileResult(wire.Message, type=0xCC, layout="u16 f32 f32 f32 f32 f32[] f32 f32"):
    """Board to host: mean times of an inference and of its parts, by the board's clock."""

    repeats: int  # runs that each mean is of
    total_us: float  # us; from the frame of INFER to that of ACTION
    decode_us: float  # us; the frame of INFER
    quantize_us: float  # us; checks, normalization, quantization
    engine_us: float  # us; the model
    operators_us: NDArray[np.float32]  # us; [n_ops], each operator of the model; empty where the engine runs only whole models
    dequantize_us: float  # us
    encode_us: float  # us; the frame of ACTION


@dataclass(frozen=True, eq=False)
class Stats(wire.Message, type=0xC5, layout="u32 u32 u32 u32 u32 u32 u32 u32 u32 u8 u32 u32 u32 u32 u32"):
    """Board to host: counters since boot."""

    requests: int  # complete frames and text lines received
    errors: int  # requests answered by an error
    inferences: int  # inferences completed
    crc_errors: int  # frames with a wrong CRC
    framing_errors: int  # frames that are not valid COBS, too short, too long or truncated
    dropped_bytes: int  # B; bytes outside valid frames and lines
    overruns: int  # UART overruns
    dropped_replies: int  # replies dropped because the host did not read them
    watchdog_trips: int  # times that the watchdog put the board into the safe state
    safe_state: int  # 1: the actuators stay off until the next observation
    uptime_ms: int  # ms
    inference_min_us: int  # us; of the active model; 0 before its first inference
    inference_max_us: int  # us
    arena_used: int  # B
    stack: int  # B; peak stack usage so far; 0 = unknown


@dataclass(frozen=True, eq=False)
class Watchdog(wire.Message, type=0xC6, layout="u32"):
    """Board to host: watchdog timeout in force."""

    timeout_ms: int  # ms; 0 = off


@dataclass(frozen=True, eq=False)
class TextLine(wire.Message, type=0xCB, layout="u16"):
    """Board to host: whether text lines are enabled."""

    max_text: int  # B; longest line that the board accepts; 0 = disabled


@dataclass(frozen=True, eq=False)
class EchoReply(wire.Message, type=0xC7, layout="u8[]"):
    """Board to host: the data of the ECHO."""

    data: bytes


@dataclass(frozen=True, eq=False)
class LoadProgress(wire.Message, type=0xC9, layout="u32 u32"):
    """Board to host: progress of the upload."""

    transfer: int
    received: int  # B; contiguous bytes from the start


@dataclass(frozen=True, eq=False)
class LoadResult(wire.Message, type=0xCA, layout="u32 u8 u32 string"):
    """Board to host: result of LOAD_COMMIT; after ok, a new HELLO is required."""

    transfer: int
    status: int  # ok: the new model is active; otherwise the reason for refusal, and the previous model stays active
    detail: int  # see the status
    message: str  # error message of the engine; empty when ok


@dataclass(frozen=True, eq=False)
class Error(wire.Message, type=0xC8, layout="u8 u32 u8"):
    """Board to host: the request was refused."""

    status: int  # reason
    detail: int  # see the status
    request: int  # type of the request


MESSAGES: dict[int, type[wire.Message]] = {
    Hello.TYPE: Hello,
    Infer.TYPE: Infer,
    InferInt8.TYPE: InferInt8,
    Tensor.TYPE: Tensor,
    InputData.TYPE: InputData,
    ObservationData.TYPE: ObservationData,
    InferStored.TYPE: InferStored,
    SelfTest.TYPE: SelfTest,
    Profile.TYPE: Profile,
    StatsRequest.TYPE: StatsRequest,
    SetWatchdog.TYPE: SetWatchdog,
    SetTextLine.TYPE: SetTextLine,
    Echo.TYPE: Echo,
    Reset.TYPE: Reset,
    EnterBootloader.TYPE: EnterBootloader,
    LoadBegin.TYPE: LoadBegin,
    LoadData.TYPE: LoadData,
    LoadCommit.TYPE: LoadCommit,
    LoadAbort.TYPE: LoadAbort,
    Ready.TYPE: Ready,
    Info.TYPE: Info,
    Action.TYPE: Action,
    TensorData.TYPE: TensorData,
    Inferred.TYPE: Inferred,
    SelfTestResult.TYPE: SelfTestResult,
    ProfileResult.TYPE: ProfileResult,
    Stats.TYPE: Stats,
    Watchdog.TYPE: Watchdog,
    TextLine.TYPE: TextLine,
    EchoReply.TYPE: EchoReply,
    LoadProgress.TYPE: LoadProgress,
    LoadResult.TYPE: LoadResult,
    Error.TYPE: Error,
}
