"""``python -m balance_hil.runtimes.tflm_worker FD``: runs TensorFlow Lite Micro for the firmware of the native board.

It serves the firmware over the stream socket FD, in the format described in the header of firmware/lib/engine_remote. Errors are
returned as a status, which the firmware passes on to the host. The process ends when the socket closes.

An uploaded model is untrusted, and the library aborts the process on some invalid models. So such a model is first tried in a
child process.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import struct
import sys
import types
from importlib.metadata import version

import numpy as np

from balance_hil.errors import ArenaTooSmallError, ElementTypeError, HarnessError, UnsupportedOperatorError
from balance_hil.protocol.messages import Status
from balance_hil.quantize import ELEMENT_TYPES, RawArray
from balance_hil.runtimes.tflm import TflmRuntime

_REQUEST = struct.Struct("<BBI")
_REPLY = struct.Struct("<BII")
_ARENA = struct.Struct("<I")
_INFO = struct.Struct("<IIHBfbfbII")
_OP = struct.Struct("<H")
_INIT, _INFER, _TENSOR = 1, 2, 3
_CHUNK = 1 << 16

_STATUSES: dict[type[HarnessError], Status] = {
    ElementTypeError: Status.MODEL_NOT_INT8,
    UnsupportedOperatorError: Status.UNSUPPORTED_OPERATOR,
    ArenaTooSmallError: Status.ARENA_TOO_SMALL,
}


class EngineHost:
    """Answers the requests of one firmware. ``handle`` never raises for a request."""

    def __init__(self) -> None:
        self._models: dict[int, _HostedModel] = {}

    def handle(self, command: int, number: int, data: bytes) -> bytes:
        """The whole reply to one request about model ``number``."""
        beside_another = any(hosted.is_loaded for other, hosted in self._models.items() if other != number)
        if command == _INIT and len(data) >= _ARENA.size and beside_another:
            verdict = _tried_in_a_child(data)
            if verdict is not None:
                self._models.pop(number, None)
                return verdict
        return self._models.setdefault(number, _HostedModel()).handle(command, data)


class _HostedModel:
    """One model and its latest inference."""

    def __init__(self) -> None:
        self._model: TflmRuntime | None = None
        self._input = b""  # of the latest inference
        self._layers: list[RawArray] | None = None  # of the latest inference; computed on first use
        self._output = b""

    @property
    def is_loaded(self) -> bool:
        """Whether there is a model that can run."""
        return self._model is not None

    def handle(self, command: int, data: bytes) -> bytes:
        """The whole reply to one request."""
        if command == _INFER and self._model is not None:
            return self._infer(self._model, data)
        if command == _TENSOR and self._model is not None:
            return self._tensor(self._model, data)
        if command == _INIT and len(data) >= _ARENA.size:
            return self._init(data)
        return _failure(Status.NO_MODEL if command in (_INFER, _TENSOR) else Status.NOT_SUPPORTED, command, "no such request")

    def _init(self, data: bytes) -> bytes:
        self._model = None
        arena_bytes = _ARENA.unpack_from(data)[0] or None
        try:
            model = TflmRuntime(data[_ARENA.size :], arena_bytes)
        except HarnessError as exc:
            needed_bytes = exc.needed_bytes if isinstance(exc, ArenaTooSmallError) else 0
            return _failure(_STATUSES.get(type(exc), Status.MODEL_INVALID), needed_bytes, exc.message)
        self._model = model
        fixed = _INFO.pack(
            model.n_obs,
            model.n_act,
            len(model.graph.operators),
            model.graph.kind.number,
            model.input_quant.scale,
            model.input_quant.zero_point,
            model.output_quant.scale,
            model.output_quant.zero_point,
            model.arena_used_bytes,
            model.arena_bytes,
        )
        name = version("tflite-micro").encode()
        return _success(fixed + bytes([len(name)]) + name)

    def _infer(self, model: TflmRuntime, data: bytes) -> bytes:
        size = model.n_obs * model.dtype.itemsize
        if len(data) != size:
            return _failure(Status.INFERENCE_FAILED, len(data), f"the model takes {size} bytes, not {len(data)}")
        self._input = data
        self._layers = None
        self._output = model.infer_raw(np.frombuffer(data, model.dtype)).tobytes()
        return _success(self._output)

    def _tensor(self, model: TflmRuntime, data: bytes) -> bytes:
        (op,) = _OP.unpack(data)
        if not model.graph.shows(model.graph.operators[op]):
            return _failure(Status.NOT_SUPPORTED, op, "the output of this operator is of another type than the model's input")
        if self._layers is None:
            # A second interpreter keeps every tensor; the first reports the arena as a board would have it. Same input, so the
            # same tensors: checked on the last one.
            layers = model.layers(np.frombuffer(self._input, model.dtype))
            if layers[-1].tobytes() != self._output:
                return _failure(Status.INFERENCE_FAILED, op, "the tensor-preserving interpreter computes another output")
            self._layers = layers
        return _success(self._layers[op].tobytes())


def _tried_in_a_child(data: bytes) -> bytes | None:
    """Loads the model and runs it once in a child process; returns the failure reply, or None on success."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        with contextlib.suppress(BaseException):
            trial = _HostedModel()
            reply = trial.handle(_INIT, data)
            if reply[0] == Status.OK:
                n_obs, _, _, number = _INFO.unpack_from(reply, _REPLY.size)[:4]
                width = next(kind.dtype.itemsize for kind in ELEMENT_TYPES.values() if kind.number == number)
                reply = trial.handle(_INFER, bytes(width * n_obs))
            os.write(sender, reply)
        os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as pipe:  # noqa: PTH123  # a descriptor has no path
        reply = pipe.read()
    _, status = os.waitpid(child, 0)
    if len(reply) < _REPLY.size:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
        return _failure(Status.MODEL_INVALID, 0, f"TensorFlow Lite Micro aborts on this model ({how})")
    return None if reply[0] == Status.OK else reply


def serve(connection: socket.socket) -> None:
    """Answers requests until the firmware closes the socket."""
    host = EngineHost()
    buffer = b""
    while True:
        chunk = connection.recv(_CHUNK)
        if not chunk:
            return
        buffer = buffer + chunk if buffer else chunk
        while len(buffer) >= _REQUEST.size:
            command, number, size = _REQUEST.unpack_from(buffer)
            end = _REQUEST.size + size
            if len(buffer) < end:
                break
            request, buffer = buffer[_REQUEST.size : end], buffer[end:]
            connection.sendall(host.handle(command, number, request))


def _success(data: bytes) -> bytes:
    return _REPLY.pack(Status.OK, 0, len(data)) + data


def _failure(status: Status, detail: int, message: str) -> bytes:
    text = message.encode()
    return _REPLY.pack(status, detail, len(text)) + text


def main() -> None:
    """Entry point."""
    # The process ends when its socket closes; Ctrl-C in the terminal is for the host program.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # requests create no cycles, and a collection would delay one
    # The wheel imports its tools for compression, a fifth of the time that this program takes to start.
    sys.modules["tflite_micro.tensorflow.lite.micro.compression"] = types.ModuleType("compression")
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(ConnectionError):
        serve(connection)


if __name__ == "__main__":
    main()
