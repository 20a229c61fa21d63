"""Client of one board, with one method per protocol request, and an adapter that makes the board a runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards.channel import M
from balance_hil.boards.pieces import TENSOR_PIECE, checked_tensor, raw_bytes
from balance_hil.boards.profile import Profile, profile_of
from balance_hil.boards.session import Session
from balance_hil.boards.upload import Progress, UploadResult, transfer
from balance_hil.bundle import Bundle
from balance_hil.errors import BoardStatusError, LinkError, ReplyTimeoutError
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Action, SelfTestResult, Stats, Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import INT8, Float32Array, RawArray
from balance_hil.runtimes.base import LayerTensor, ModelRuntime

SELF_TEST_TIMEOUT_S = 10.0
PROFILE_TIMEOUT_S = 10.0  # the board takes 20 ms of its own time, or
_PROFILE_PASSES = 10  # several times that of a long inference


class Board(Session):
    """An identified board, with one method per request. See ``Session`` for the constructor."""

    def infer(self, observation: NDArray[np.float32]) -> Action:
        """Runs the policy on one observation, float32 [n_obs], and returns the action. Raises what ``request`` raises."""
        if self.in_pieces:
            return self.infer_in_pieces(np.asarray(observation, np.float32), raw=False)
        return self._ask(messages.Infer(observation), Action)

    def infer_raw(self, values: RawArray) -> Action:
        """Runs the model on one raw input [n_obs] of ``kind``. Raises what ``request`` raises."""
        if self.in_pieces:
            return self.infer_in_pieces(np.asarray(values, self.kind.dtype), raw=True)
        return self._ask(self.raw_request(values), Action)

    def raw_request(self, values: RawArray) -> messages.InferInt8:
        """The request of ``infer_raw``, to be sent otherwise."""
        return messages.InferInt8(values if self.kind == INT8 else raw_bytes(np.asarray(values, self.kind.dtype)))

    def infer_batch(self, observations: NDArray[np.float32]) -> list[Action]:
        """One ``infer`` for each row of float32 [n, n_obs], several in flight. Raises what ``request`` raises."""
        if self.in_pieces:
            return [self.infer(row) for row in observations]
        replies = self.pipeline([messages.Infer(row) for row in observations])
        return [_expect(reply, Action, self.port) for reply in replies]

    def infer_raw_batch(self, inputs: RawArray) -> list[Action]:
        """One ``infer_raw`` for each row of raw [n, n_obs], several in flight. Raises what ``request`` raises."""
        if self.in_pieces:
            return [self.infer_raw(row) for row in inputs]
        replies = self.pipeline([self.raw_request(row) for row in inputs])
        return [_expect(reply, Action, self.port) for reply in replies]

    def layers_raw_batch(self, inputs: RawArray) -> list[LayerTensor]:
        """Output of the operators, in execution order, for raw inputs [n, n_obs].

        Without those whose output is of another type than the model's input: float32, or a shape. Raises what ``request`` raises.
        """
        sizes = dict.fromkeys(range(self.info.n_ops), 0)
        if len(inputs):
            self.infer_raw(inputs[0])
            sizes = self._tensor_sizes()
        parts = [messages.Tensor(op, offset) for op, size in sizes.items() for offset in range(0, max(size, 1), TENSOR_PIECE)]
        values: dict[int, list[NDArray[np.int8]]] = {op: [] for op in sizes}
        for requests in self._inferences(inputs, parts):
            for request, reply in zip(requests, self.pipeline(requests), strict=True):
                if isinstance(request, messages.Tensor):
                    values[request.op].append(checked_tensor(reply, request, self.port))
        names = operator_names(self.bundle, self.info.n_ops)
        dtype = self.kind.dtype
        return [LayerTensor(op, names[op], _rows(values[op], len(inputs), size, dtype)) for op, size in sizes.items()]

    def _tensor_sizes(self) -> dict[int, int]:
        """Bytes of the output of each operator that the board shows. Raises BoardStatusError if it shows none."""
        sizes: dict[int, int] = {}
        refused = None
        for op in range(self.info.n_ops):
            try:
                sizes[op] = self._part(op, 0).size
            except BoardStatusError as exc:
                if exc.status != Status.NOT_SUPPORTED.name.lower():
                    raise
                refused = exc
        if refused is not None and not sizes:
            raise refused
        return sizes

    def _inferences(self, inputs: RawArray, parts: list[messages.Tensor]) -> Iterator[list[Message]]:
        """Requests for ``parts`` after an inference from each row: all at once, or if these take pieces, row by row."""
        if not self.in_pieces:
            yield [request for row in inputs for request in (self.raw_request(row), *parts)]
            return
        for row in inputs:
            self.infer_raw(row)
            yield [*parts]

    def tensor(self, op: int) -> RawArray:
        """Raw output of operator ``op`` in the last inference, [size] of ``kind``. Raises what ``request`` raises."""
        parts = [self._part(op, 0)]
        while (have := sum(len(part.values) for part in parts)) < parts[0].size:
            parts.append(self._part(op, have))
        whole: RawArray = _rows([part.values for part in parts], 1, parts[0].size, self.kind.dtype)[0]
        return whole

    def _part(self, op: int, offset: int) -> messages.TensorData:
        request = messages.Tensor(op, offset)
        reply = self._ask(request, messages.TensorData)
        checked_tensor(reply, request, self.port)
        return reply

    def self_test(self) -> SelfTestResult:
        """Replays the golden vectors in the board's image."""
        return self._ask(messages.SelfTest(), SelfTestResult, SELF_TEST_TIMEOUT_S)

    def profile(self, observation: NDArray[np.float32] | None = None) -> Profile:
        """What one inference costs, part by part. The board enters the safe state, which the next ``infer`` ends.

        Args:
            observation: float32 [n_obs]; None: the bundle's first golden one, or zeros.

        Raises:
            BoardStatusError, ReplyTimeoutError: see ``request``.
            LinkError: the answer cannot be right.
        """
        if observation is None:
            observation = np.zeros(self.info.n_obs, np.float32) if self.bundle is None else self.bundle.golden("observations")[0]
        asked, timeout_s = messages.Profile(np.asarray(observation, np.float32)), PROFILE_TIMEOUT_S
        if self.in_pieces:
            asked = messages.Profile(np.zeros(0, np.float32))  # of the input that the board then has
            timeout_s += _PROFILE_PASSES * self.infer(observation).inference_us / 1e6
        result = self._ask(asked, messages.ProfileResult, timeout_s)
        times_us = [result.total_us, result.decode_us, result.quantize_us, result.engine_us, *result.operators_us]
        times_us += [result.dequantize_us, result.encode_us]
        if not all(0 <= time_us < np.inf for time_us in times_us) or len(result.operators_us) not in (0, self.info.n_ops):
            raise LinkError(
                f"the board on {self.port} sent an impossible profile: {result}", "reset the board, or flash it again"
            )
        return profile_of(result, operator_names(self.bundle, self.info.n_ops), *self.cost_unit)

    def stats(self) -> Stats:
        """The board's counters since it booted."""
        return self._ask(messages.StatsRequest(), Stats)

    def echo(self, data: bytes) -> bytes:
        """Sends ``data`` and returns the board's echo."""
        return self._ask(messages.Echo(data), messages.EchoReply).data

    def set_watchdog(self, timeout_ms: int) -> int:
        """Sets the time without an observation after which the board enters its safe state; 0 disables the watchdog."""
        return self._ask(messages.SetWatchdog(timeout_ms), messages.Watchdog).timeout_ms

    def load(self, bundle: Bundle, on_progress: Progress | None = None) -> UploadResult:
        """Replaces the board's model with the bundle's until the next reset. Does nothing if the board already runs it.

        ``on_progress(bytes_received, total_bytes)`` is called as the upload advances. Afterwards the board is checked against
        ``bundle``. If the upload fails or the board rejects the model, the board keeps its previous model.

        Raises:
            UsageError: the compact engine does not run models of its element type.
            BoardStatusError, UnsupportedOperatorError, ArenaTooSmallError, ElementTypeError: the board rejects the model.
            ReplyTimeoutError, BoardRebootedError, CableUnpluggedError: see ``transfer``.
        """
        from balance_hil.boards.engines import check_element_type  # reads what engines run

        self.info = self.query_info()  # the board may have restarted
        check_element_type(self.info.engine, bundle.kind, f"the board on {self.port}")
        if self.info.model_id == bundle.id and self.info.engine_status == Status.OK:
            result = UploadResult(uploaded=False, size_bytes=0, wall_s=0.0, resent=0)
        else:
            result = transfer(self, ModelImage.of(bundle), on_progress)
        self.bundle = bundle
        self.identify()
        return result

    def as_runtime(self) -> BoardRuntime:
        """The board as a ModelRuntime named "board". Closing it leaves the board open."""
        return BoardRuntime(self)

    def _ask(self, message: Message, kind: type[M], timeout_s: float | None = None) -> M:
        return _expect(self.request(message, timeout_s), kind, self.port)


def _expect(reply: Message, kind: type[M], port: str) -> M:
    if not isinstance(reply, kind):
        raise ReplyTimeoutError(
            f"the board on {port} answered with {type(reply).__name__} instead of {kind.__name__}",
            "reset the board: its firmware is out of sync",
        )
    return reply


def _rows(parts: Sequence[NDArray[np.int8]], count: int, size: int, dtype: np.dtype[Any]) -> RawArray:
    """Raw values [count, ...] of the parts of its rows, which have ``size`` bytes each. Raises LinkError."""
    values = np.concatenate(parts) if parts else np.zeros(0, np.int8)
    if values.size != count * size or size % dtype.itemsize:
        raise LinkError(f"the board sent {values.size} bytes of {count} tensors of {size}", "reset the board, or flash it again")
    return values.view(dtype).reshape(count, size // dtype.itemsize)


class BoardRuntime(ModelRuntime):
    """A board as a runtime. ``act_batch`` sends float32, which the board quantizes; ``close`` leaves the board open."""

    name = "board"

    def __init__(self, board: Board) -> None:
        self._board = board
        self.n_obs, self.n_act = board.info.n_obs, board.info.n_act
        self.input_quant, self.output_quant = board.input_quant, board.output_quant

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """Actions, float32 [n, n_act]; the board quantizes and dequantizes. Raises what ``Board.request`` raises."""
        actions = self._board.infer_batch(np.ascontiguousarray(observations, np.float32))
        return np.array([reply.action for reply in actions], np.float32).reshape(-1, self.n_act)

    def infer_raw_batch(self, inputs: RawArray) -> RawArray:
        """See ModelRuntime. Raises what ``Board.request`` raises."""
        actions = self._board.infer_raw_batch(inputs)
        return np.array([reply.output for reply in actions], self.dtype).reshape(-1, self.n_act)

    def layers_raw_batch(self, inputs: RawArray) -> list[LayerTensor]:
        """See ModelRuntime. Raises what ``Board.request`` raises."""
        return self._board.layers_raw_batch(inputs)


def operator_names(bundle: Bundle | None, n_ops: int) -> list[str]:
    """Operator names from the bundle, for as many operators as the board reports."""
    if bundle is not None:
        names = [str(name) for name in bundle.golden("operators")]
        if len(names) == n_ops:
            return names
    return [f"operator {op}" for op in range(n_ops)]
