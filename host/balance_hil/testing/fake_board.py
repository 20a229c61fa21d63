"""A fake board: the board's side of the protocol in plain Python, with fault injection; no hardware, process or TFLM.

For tests of anything that talks to a board. ``FakeLink(FakeFirmware(...))`` is a link. Nothing runs in the background: the
firmware answers inside ``write``, and a reply is readable once it is due.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards.board import Board
from balance_hil.boards.pieces import TENSOR_PIECE, raw_bytes
from balance_hil.bundle import Bundle
from balance_hil.errors import CableUnpluggedError
from balance_hil.model_image import normalization_crc
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, encode
from balance_hil.protocol.messages import Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import ELEMENT_TYPES, ElementType, Normalization, QuantParams, RawArray, dequantize, quantize

Policy = Callable[[RawArray], RawArray]  # raw [n_obs] to raw [n_act]
Inference = messages.Infer | messages.InferInt8 | messages.InferStored


@dataclass
class FakeFirmware:
    """Behavior of the fake board. Faults are selected by inference number, counted from 0 over all boots."""

    info: messages.Info
    policy: Policy
    normalization: Normalization | None = None
    layers: list[Policy] = field(default_factory=list)  # output of each operator; default: the policy alone is one operator
    lose: Container[int] = ()  # inferences whose reply is lost
    reboot_at: Container[int] = ()  # inferences at which the board reboots instead of answering
    unplug_at: int | None = None  # inference at which the cable is unplugged
    delay_s: Callable[[int], float] = lambda inference: 0.0  # from request to reply
    silent_boot: bool = False  # the READY of a reboot is lost
    verify_polls: int = 0  # LOAD_COMMITs of an upload that are answered by the progress of its verification
    uploads: Mapping[bytes, Policy] = field(default_factory=dict)  # models that can be uploaded, with their policies
    inferences: int = 0
    boots: int = 0
    unplugged: bool = False

    def __post_init__(self) -> None:
        self._decoder = Decoder()
        self._identified = False
        self._last: RawArray | None = None
        self._stored = np.zeros(self.info.n_obs * self.kind.dtype.itemsize, np.int8)  # bytes of the input as pieces fill it
        self._output: RawArray = np.zeros(0, np.int8)  # of the latest inference
        self._watchdog_ms = self.info.watchdog_ms
        self._flashed: tuple[messages.Info, Policy, list[Policy], Normalization | None] | None = (
            None  # while something uploaded runs
        )
        self._upload: messages.LoadBegin | None = None
        self._received = b""
        self._verified = 0
        self._finished: messages.LoadResult | None = None

    @property
    def kind(self) -> ElementType:
        """Element type of the model."""
        return next(kind for kind in ELEMENT_TYPES.values() if kind.number == self.info.element_type)

    @property
    def input_quant(self) -> QuantParams:
        """Quantization of the observation."""
        return QuantParams(self.info.input_scale, self.info.input_zero_point, self.kind)

    @property
    def output_quant(self) -> QuantParams:
        """Quantization of the action."""
        return QuantParams(self.info.output_scale, self.info.output_zero_point, self.kind)

    def boot(self) -> list[tuple[float, bytes]]:
        """Boots the board; returns the frames that it sends, as (delay in seconds, frame)."""
        self.boots += 1
        if self._flashed is not None:
            self.info, self.policy, self.layers, self.normalization = self._flashed
            self._flashed = None
        self._upload = None
        self._decoder = Decoder()
        self._identified = False
        if self.silent_boot and self.boots > 1:
            return []
        return [(0.0, encode(messages.Ready(self.info.protocol, self.info.schema_crc, int(self.boots > 1)), 0))]

    def feed(self, data: bytes) -> list[tuple[float, bytes]]:
        """Processes bytes from the host; returns the frames that it sends, as (delay in seconds, frame)."""
        said: list[tuple[float, bytes]] = []
        for frame in self._decoder.feed(data):
            if isinstance(frame.message, Inference) and self._identified:
                said += self._inference(frame.message, frame.seq)
            elif isinstance(frame.message, messages.Reset):
                said += self.boot()
            else:
                said.append((0.0, encode(self._answer(frame.message), frame.seq)))
        return said

    def _inference(self, request: Inference, seq: int) -> list[tuple[float, bytes]]:
        number = self.inferences
        self.inferences += 1
        self.unplugged = self.unplugged or number == self.unplug_at
        if number in self.reboot_at:
            return self.boot()
        reply = encode(self._act(request), seq)
        return [] if number in self.lose or self.unplugged else [(self.delay_s(number), reply)]

    def _act(self, request: Inference) -> Message:
        if isinstance(request, messages.InferStored):
            return self._infer_stored(request)
        values = request.observation if isinstance(request, messages.Infer) else request.input.view(self.kind.dtype)
        if len(values) != self.info.n_obs:
            return messages.Error(Status.WRONG_COUNT, self.info.n_obs, request.TYPE)
        if not np.all(np.isfinite(values)):
            return messages.Error(Status.NON_FINITE, int(np.argmin(np.isfinite(values))), request.TYPE)
        if isinstance(request, messages.Infer):
            self._last = quantize(request.observation, self.input_quant, self.normalization)
        else:
            self._last = values
        self._stored = raw_bytes(self._last)
        self._output = output = self.policy(self._last)
        action = dequantize(output, self.output_quant)
        return messages.Action(Status.OK, self._stored, raw_bytes(output), action, 7, 9)

    def _infer_stored(self, request: messages.InferStored) -> Message:
        if (crc := zlib.crc32(self._stored.tobytes())) != request.input_crc:
            return messages.Error(Status.UPLOAD_DAMAGED, crc, request.TYPE)
        self._last = self._stored.view(self.kind.dtype)
        self._output = self.policy(self._last)
        action = dequantize(self._output, self.output_quant)
        return messages.Inferred(crc, zlib.crc32(self._output.tobytes()), zlib.crc32(action.tobytes()), 7, 9)

    def _store(self, request: messages.InputData | messages.ObservationData) -> Message:
        start, end = request.offset, request.offset + len(request.values)
        width = 1 if isinstance(request, messages.InputData) else self.kind.dtype.itemsize
        if width * end > len(self._stored):
            return messages.Error(Status.WRONG_OFFSET, len(self._stored) // width, request.TYPE)
        if isinstance(request, messages.InputData):
            raw = request.values
        else:
            by = self.normalization
            part = Normalization(by.mean[start:end], by.inverse_std[start:end], by.clip) if by else None
            raw = raw_bytes(quantize(request.values, self.input_quant, part))
        self._stored = np.concatenate([self._stored[: width * start], raw, self._stored[width * end :]])
        return messages.TensorData(messages.INPUT_TENSOR, width * start, len(self._stored), raw)

    def _tensor(self, op: int) -> NDArray[np.int8] | None:
        """Bytes of an operator's output, or of what belongs to the latest inference; None: there is no such operator."""
        assert self._last is not None
        ends = {
            messages.INPUT_TENSOR: self._stored,
            messages.OUTPUT_TENSOR: raw_bytes(self._output),
            messages.ACTION_TENSOR: raw_bytes(dequantize(self._output, self.output_quant)),
        }
        return raw_bytes((self.layers or [self.policy])[op](self._last)) if op < self.info.n_ops else ends.get(op)

    def _answer(self, request: Message) -> Message:
        match request:
            case messages.Hello(nonce=nonce):
                self._identified = True
                return replace(self.info, nonce=nonce)
            case messages.Echo(data=data):
                return messages.EchoReply(data)
            case messages.StatsRequest():
                return messages.Stats(*[self.inferences] * 3, *[0] * 12)
        if not self._identified and not isinstance(request, messages.LoadCommit):
            return messages.Error(Status.NOT_IDENTIFIED, 0, request.TYPE)
        match request:
            case messages.Tensor(op=op) if self._last is None:
                return messages.Error(Status.NO_INFERENCE_YET, 0, request.TYPE)
            case messages.Tensor(op=op, offset=offset) if (values := self._tensor(op)) is not None:
                if offset and offset >= len(values):
                    return messages.Error(Status.WRONG_OFFSET, len(values), messages.Tensor.TYPE)
                return messages.TensorData(op, offset, len(values), values[offset : offset + TENSOR_PIECE])
            case messages.Tensor():
                return messages.Error(Status.NO_SUCH_OPERATOR, self.info.n_ops, request.TYPE)
            case messages.InputData() | messages.ObservationData():
                return self._store(request)
            case messages.SetWatchdog(timeout_ms=timeout_ms):
                self._watchdog_ms = timeout_ms
                return messages.Watchdog(timeout_ms)
            case messages.SetTextLine(enabled=enabled):
                return messages.TextLine(messages.MAX_TEXT if enabled else 0)
            case messages.EnterBootloader():
                return messages.Error(Status.NOT_SUPPORTED, 0, request.TYPE)
            case messages.Profile(observation=observation) if len(observation) not in (0, self.info.n_obs):
                return messages.Error(Status.WRONG_COUNT, self.info.n_obs, request.TYPE)
            case messages.Profile():
                operators_us = np.full(self.info.n_ops, 6.0 / self.info.n_ops, np.float32)
                return messages.ProfileResult(1000, 10.0, 1.5, 0.75, 6.25, operators_us, 0.25, 1.25)
            case messages.SelfTest():
                return messages.Error(Status.NO_GOLDEN_VECTORS, 0, request.TYPE)
            case messages.LoadBegin() | messages.LoadData() | messages.LoadCommit() | messages.LoadAbort():
                return self._load(request)
        return messages.Error(Status.UNKNOWN_TYPE, request.TYPE, request.TYPE)

    def _load(self, request: messages.LoadBegin | messages.LoadData | messages.LoadCommit | messages.LoadAbort) -> Message:
        """LOAD as the firmware does it, for models of ``uploads``."""
        number = request.transfer
        if isinstance(request, messages.LoadBegin):
            numbers = 4 * (2 * request.n_obs + 1) if request.normalized else 0
            width = next(kind.dtype.itemsize for kind in ELEMENT_TYPES.values() if kind.number == request.element_type)
            size = request.model_size + numbers + request.n_self_test * (request.n_obs + request.n_act) * width
            if size > self.info.upload_size:
                return messages.Error(Status.NO_ROOM, self.info.upload_size, request.TYPE)
            if self._upload != request:
                self._upload, self._received, self._verified = request, b"", 0
            return messages.LoadProgress(number, len(self._received))
        if isinstance(request, messages.LoadCommit) and self._finished is not None and self._finished.transfer == number:
            return self._finished
        if isinstance(request, messages.LoadAbort):
            self._upload, self._received = None, b""
            return messages.LoadProgress(number, 0)
        if self._upload is None or self._upload.transfer != number:
            return messages.Error(Status.NO_UPLOAD, self._upload.transfer if self._upload else 0, request.TYPE)
        if isinstance(request, messages.LoadData):
            if request.offset > len(self._received):
                return messages.Error(Status.WRONG_OFFSET, len(self._received), request.TYPE)
            self._received += request.data[len(self._received) - request.offset :]
            return messages.LoadProgress(number, len(self._received))
        if self._verified < self.verify_polls:
            self._verified += 1
            return messages.LoadResult(number, Status.VERIFYING, max(0, self._upload.n_self_test - self._verified), "")
        self._finished = self._commit(self._upload)
        return self._finished

    def _commit(self, upload: messages.LoadBegin) -> messages.LoadResult:
        self._upload = None
        model = self._received[: upload.model_size]
        if zlib.crc32(self._received) != upload.crc:
            return messages.LoadResult(upload.transfer, Status.UPLOAD_DAMAGED, zlib.crc32(self._received), "")
        if model not in self.uploads:
            return messages.LoadResult(upload.transfer, Status.MODEL_INVALID, 0, "this fake board does not have that model")
        self._flashed = self._flashed or (self.info, self.policy, self.layers, self.normalization)
        self.policy, self.layers, self.normalization = self.uploads[model], [], None
        if upload.normalized:
            numbers = np.frombuffer(self._received, "<f4", 2 * upload.n_obs + 1, upload.model_size)
            mean, inverse_std = numbers[:-1].reshape(2, -1)
            self.normalization = Normalization(mean, inverse_std, numbers[-1])
        crc = normalization_crc(self.normalization)
        self.info = replace(self.info, n_obs=upload.n_obs, n_act=upload.n_act, normalization_crc=crc)
        self.info = replace(self.info, model_id=upload.model_id, uploaded=1, element_type=upload.element_type)
        self._identified, self._last = False, None
        return messages.LoadResult(upload.transfer, Status.OK, 0, "")


class FakeLink:
    """A link to a fake board."""

    description = "fake"

    def __init__(self, firmware: FakeFirmware) -> None:
        self.firmware = firmware
        self.closed = False
        self._held: deque[tuple[float, bytes]] = deque()
        self._say(firmware.boot())

    def write(self, data: bytes) -> None:
        """See ``Link.write``."""
        self._check()
        self._say(self.firmware.feed(data))

    def read(self, timeout_s: float) -> bytes:
        """See ``Link.read``."""
        self._check()
        now = time.perf_counter()
        due = self._held[0][0] if self._held else float("inf")
        wake = min(due, now + timeout_s)
        if wake > now:
            time.sleep(wake - now)
        return self._held.popleft()[1] if due <= wake else b""

    def close(self) -> None:
        """See ``Link.close``."""
        self.closed = True

    def _say(self, said: list[tuple[float, bytes]]) -> None:
        now = time.perf_counter()
        for delay_s, frame in said:
            due = max(now + delay_s, self._held[-1][0] if self._held else 0.0)
            self._held.append((due, frame))

    def _check(self) -> None:
        if self.closed or self.firmware.unplugged:
            raise CableUnpluggedError("fake vanished while it was in use", "this is a fake board")


def fake_info(bundle: Bundle) -> messages.Info:
    """The INFO of a board that runs ``bundle``."""
    return messages.Info(
        protocol=messages.PROTOCOL_VERSION,
        schema_crc=messages.SCHEMA_CRC,
        nonce=0,
        firmware_commit="000000000000",
        board="fake",
        processor="none",
        engine="fake",
        engine_version="1",
        engine_status=Status.OK,
        engine_detail=0,
        engine_message="",
        model_id=bundle.id,
        normalization_crc=normalization_crc(bundle.normalization),
        n_obs=bundle.spec.n_obs,
        n_act=bundle.spec.n_act,
        n_ops=1,
        input_scale=bundle.input_quant.scale,
        input_zero_point=bundle.input_quant.zero_point,
        output_scale=bundle.output_quant.scale,
        output_zero_point=bundle.output_quant.zero_point,
        n_self_test=0,
        arena_used=0,
        arena_size=0,
        clock_hz=0,
        rx_buffer=512,
        max_payload=messages.MAX_PAYLOAD,
        max_text=messages.MAX_TEXT,
        watchdog_ms=messages.WATCHDOG_MS,
        stack=0,
        ram=0,
        flash=0,
        uploaded=0,
        upload_size=1 << 20,
        element_type=bundle.kind.number,
    )


def linear_policy(gains: RawArray | list[list[float]], bundle: Bundle) -> Policy:
    """The raw form of ``action = gains @ observation``, gains float [n_act, n_obs]: balances the robot without a network."""
    matrix = np.asarray(gains, np.float32)

    def policy(values: RawArray) -> RawArray:
        return quantize(np.clip(matrix @ dequantize(values, bundle.input_quant), -1, 1), bundle.output_quant)

    return policy


def fake_board(firmware: FakeFirmware, bundle: Bundle | None = None) -> Board:
    """A ``Board`` on a fake link."""
    return Board(FakeLink(firmware), bundle, handshake_timeout_s=0.5)
