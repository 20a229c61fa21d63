"""An inference whose input or output does not fit a frame: sent in pieces, run, read in pieces, and checked as a whole.

    INPUT_DATA or OBSERVATION_DATA, several in flight ─ INFER_STORED, TENSOR of the output ─ TENSOR of the action if it is wrong

The board infers only from an input of the right CRC, and names the CRC of its output, so that lost, repeated or reordered pieces
give no wrong result.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import LinkError
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Action, Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import Float32Array, QuantParams, RawArray, dequantize

TENSOR_PIECE = messages.MAX_PAYLOAD - 12  # bytes of one TENSOR_DATA
OBSERVATION_PIECE = TENSOR_PIECE // 4  # values of one OBSERVATION_DATA, whose answer may hold them as float32
LARGEST_TENSOR = 1 << 24  # bytes
MAX_ATTEMPTS = 3  # at one input that does not arrive as a whole
_HINT = "reset the board, or flash it again"


def fits_frame(n_obs: int, n_act: int, width: int = 1) -> bool:
    """Whether INFER and ACTION of a model with so many inputs and outputs, raw of ``width`` bytes, fit a frame each."""
    raw = (2 + width * n_obs) + (2 + width * n_act)
    return max(2 + 4 * n_obs, 1 + raw + (2 + 4 * n_act) + 8) <= messages.MAX_PAYLOAD


def checked_tensor(reply: Message, request: messages.Tensor, port: str) -> NDArray[np.int8]:
    """Bytes of ``reply`` if it is what ``request`` asked for: all from the offset on that fit a frame. Raises LinkError."""
    name = type(reply).__name__
    if isinstance(reply, messages.TensorData):
        wanted = min(reply.size - request.offset, TENSOR_PIECE)
        seen = (reply.op, reply.offset, len(reply.values))
        some = wanted > 0 or request.offset == 0
        if seen == (request.op, request.offset, wanted) and some and reply.size <= LARGEST_TENSOR:
            return reply.values
        name = f"{len(reply.values)} of {reply.size} bytes of operator {reply.op} at {reply.offset}"
    raise LinkError(f"the board on {port} sent {name} for those from {request.offset} of operator {request.op}", _HINT)


def raw_bytes(values: RawArray) -> NDArray[np.int8]:
    """The bytes of raw values [n] as messages carry them: int8 [n * width]."""
    return np.ascontiguousarray(values).view(np.int8)


class PiecedInference:
    """What to send for one inference, and what its replies make. Send all of ``pending``; pass each with its reply to ``take``.

    Args:
        values: [n_obs], a raw input, or an observation, float32.
        n_act: outputs of the model.
        output_quant: of them.
        port: of the board, for messages.
        raw: whether the values are a raw input, of the element type of ``output_quant``.
    """

    def __init__(self, values: Float32Array | RawArray, n_act: int, output_quant: QuantParams, port: str, *, raw: bool) -> None:
        self.pending: deque[Message] = deque()
        self._dtype = output_quant.kind.dtype
        self._is_raw = raw
        self._values = raw_bytes(values) if raw else values
        self._width = 1 if raw else self._dtype.itemsize  # bytes of raw input that one of the values gives
        self._output_quant = output_quant
        self._port = port
        self._input = np.zeros(self._width * len(self._values), np.int8)  # bytes
        self._output_bytes = n_act * self._dtype.itemsize
        self.attempts = 0  # to send the input
        self._send_input()

    def _send_input(self) -> None:
        self.attempts += 1
        self._inferred: messages.Inferred | None = None
        kind: Any = messages.InputData if self._is_raw else messages.ObservationData
        size = TENSOR_PIECE if self._is_raw else OBSERVATION_PIECE
        offsets = range(0, len(self._values), size)
        self.pending = deque(kind(offset, self._values[offset : offset + size]) for offset in offsets)
        self._missing = len(self.pending)

    def take(self, request: Message, reply: Message) -> Action | messages.Error | None:
        """The result; None while something is missing; ERROR if the board refused it for good.

        Raises:
            LinkError: the reply cannot be right.
        """
        match request, reply:
            case _, messages.Error(status=Status.UPLOAD_DAMAGED | Status.NO_INFERENCE_YET) if self.attempts < MAX_ATTEMPTS:
                self._send_input()  # the link had changed the order
            case _, messages.Error():
                return reply
            case messages.InputData() | messages.ObservationData(), messages.TensorData():
                self._input_arrived(request, reply)
            case messages.InferStored(), messages.Inferred():
                if reply.input_crc != request.input_crc:
                    raise self._wrong("inferred from another input than was asked for")
                self._inferred = reply
                return self._complete()
            case messages.Tensor(), messages.TensorData():
                self._read(request, reply)
                return self._complete()
            case _:
                raise self._wrong(f"answered {type(request).__name__} with {type(reply).__name__}")
        return None

    def _input_arrived(self, request: messages.InputData | messages.ObservationData, reply: messages.TensorData) -> None:
        start, size = self._width * request.offset, self._width * len(request.values)
        if (reply.op, reply.offset, reply.size, len(reply.values)) != (messages.INPUT_TENSOR, start, len(self._input), size):
            sent = f"{len(reply.values)} of {reply.size} bytes of input at {reply.offset}"
            raise self._wrong(f"has {sent}, not those that were sent")
        if self._is_raw and not np.array_equal(reply.values, request.values):
            raise self._wrong(f"has other inputs at {reply.offset} than were sent")
        self._input[start : start + size] = reply.values
        self._missing -= 1
        if not self._missing:
            self._missing = self._parts(messages.OUTPUT_TENSOR, self._output_bytes)
            self.pending.appendleft(messages.InferStored(zlib.crc32(self._input.tobytes())))

    def _parts(self, op: int, size: int) -> int:
        """Requests for a tensor of ``size`` bytes; how many they are."""
        self.pending.extend(messages.Tensor(op, offset) for offset in range(0, size, TENSOR_PIECE))
        self._reads, self._bytes = op, bytearray(size)
        return len(self.pending)

    def _read(self, request: messages.Tensor, reply: messages.TensorData) -> None:
        values = checked_tensor(reply, request, self._port)
        if reply.size != len(self._bytes):
            raise self._wrong(f"has {reply.size} bytes of output, not {len(self._bytes)}")
        self._bytes[request.offset : request.offset + len(values)] = values.tobytes()
        self._missing -= 1

    def _complete(self) -> Action | None:
        """The result, if all replies to the present requests are there, in whatever order."""
        if self._missing or self._inferred is None:
            return None
        of_output = self._reads == messages.OUTPUT_TENSOR
        if zlib.crc32(self._bytes) != (self._inferred.output_crc if of_output else self._inferred.action_crc):
            if self.attempts == MAX_ATTEMPTS:
                raise self._wrong("sent an output of another CRC than it named")
            self._send_input()  # it was read before the inference
            return None
        if not of_output:
            return self._result(np.frombuffer(self._bytes, "<f4"))
        self._output = np.frombuffer(bytes(self._bytes), self._dtype)
        action = dequantize(self._output, self._output_quant)
        if zlib.crc32(action.astype("<f4").tobytes()) == self._inferred.action_crc:
            return self._result(action)
        self._missing = self._parts(messages.ACTION_TENSOR, action.nbytes)  # it dequantizes otherwise: how?
        return None

    def _result(self, action: Float32Array) -> Action:
        assert self._inferred is not None
        times = self._inferred.inference_us, self._inferred.total_us
        return Action(Status.OK, self._input.view(self._dtype), self._output, action, *times)

    def _wrong(self, what: str) -> LinkError:
        return LinkError(f"the board on {self._port} {what}", _HINT)
