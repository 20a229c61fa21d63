"""The client of one board: one method for each request of the protocol; and the board as one more int8 runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards.channel import M
from balance_hil.boards.session import Session
from balance_hil.boards.upload import Progress, UploadResult, transfer
from balance_hil.bundle import GOLDEN, Bundle
from balance_hil.errors import ReplyTimeoutError
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Action, SelfTestResult, Stats, Status
from balance_hil.protocol.wire import Message
from balance_hil.runtimes.base import Float32Array, Int8Array, Int8Runtime, LayerTensor

SELF_TEST_TIMEOUT_S = 10.0


class Board(Session):
    """A board that said who it is, with one method for each request. See ``Session`` for how it is opened."""

    def infer(self, observation: NDArray[np.float32]) -> Action:
        """From one observation, float32 [n_obs], to an action, on the board. Raises what ``request`` raises."""
        return self._ask(messages.Infer(observation), Action)

    def infer_int8(self, values: NDArray[np.int8]) -> Action:
        """Infer from one raw input, int8 [n_obs], on the board. Raises what ``request`` raises."""
        return self._ask(messages.InferInt8(values), Action)

    def infer_batch(self, observations: NDArray[np.float32]) -> list[Action]:
        """One ``infer`` for each row of float32 [n, n_obs], several in flight. Raises what ``request`` raises."""
        replies = self.pipeline([messages.Infer(row) for row in observations])
        return [_expect(reply, Action, self.port) for reply in replies]

    def infer_int8_batch(self, inputs: NDArray[np.int8]) -> list[Action]:
        """One ``infer_int8`` for each row of int8 [n, n_obs], several in flight. Raises what ``request`` raises."""
        replies = self.pipeline([messages.InferInt8(row) for row in inputs])
        return [_expect(reply, Action, self.port) for reply in replies]

    def layers_int8_batch(self, inputs: NDArray[np.int8]) -> list[LayerTensor]:
        """Output of every operator, in execution order, for raw inputs, int8 [n, n_obs]. Raises what ``request`` raises."""
        operators = range(self.info.n_ops)
        requests: list[Message] = []
        for row in inputs:
            requests += [messages.InferInt8(row), *(messages.Tensor(op) for op in operators)]
        replies = self.pipeline(requests)
        names = _operator_names(self.bundle, self.info.n_ops)
        stride = self.info.n_ops + 1
        return [
            LayerTensor(
                op, names[op], _stack([_expect(r, messages.TensorData, self.port).values for r in replies[op + 1 :: stride]])
            )
            for op in operators
        ]

    def tensor(self, op: int) -> NDArray[np.int8]:
        """Output of operator ``op`` in the last inference, int8 [size]. Raises what ``request`` raises."""
        return self._ask(messages.Tensor(op), messages.TensorData).values

    def self_test(self) -> SelfTestResult:
        """Has the board replay the golden vectors in its image."""
        return self._ask(messages.SelfTest(), SelfTestResult, SELF_TEST_TIMEOUT_S)

    def stats(self) -> Stats:
        """The board's counters since it booted."""
        return self._ask(messages.StatsRequest(), Stats)

    def echo(self, data: bytes) -> bytes:
        """Sends ``data`` there and back."""
        return self._ask(messages.Echo(data), messages.EchoReply).data

    def set_watchdog(self, timeout_ms: int) -> int:
        """Sets the time without an observation after which the board goes to the safe state; 0 switches that off."""
        return self._ask(messages.SetWatchdog(timeout_ms), messages.Watchdog).timeout_ms

    def load(self, bundle: Bundle, on_progress: Progress | None = None) -> UploadResult:
        """Replaces the model that the board runs by the bundle's, until the next reset; nothing happens where it runs already.

        ``on_progress(bytes_there, bytes_in_all)`` is called as the upload advances. From then on the board is checked against
        ``bundle``. A board that refuses it, or does not get it whole, goes on with what it ran.

        Raises:
            BoardStatusError, UnsupportedOperatorError, ArenaTooSmallError, ModelNotInt8Error: the board refuses the model.
            ReplyTimeoutError, BoardRebootedError, CableUnpluggedError: see ``transfer``.
        """
        self.info = self.greet()  # it may have restarted since the last time
        if self.info.model_id == bundle.id and self.info.engine_status == Status.OK:
            result = UploadResult(uploaded=False, size_bytes=0, wall_s=0.0, resent=0)
        else:
            result = transfer(self, ModelImage.of(bundle), on_progress)
        self.bundle = bundle
        self.identify()
        return result

    def as_runtime(self) -> BoardRuntime:
        """The board as an Int8Runtime named "board". Closing it leaves the board open."""
        return BoardRuntime(self)

    def _ask(self, message: Message, kind: type[M], timeout_s: float | None = None) -> M:
        return _expect(self.request(message, timeout_s), kind, self.port)


def _expect(reply: Message, kind: type[M], port: str) -> M:
    if not isinstance(reply, kind):
        raise ReplyTimeoutError(
            f"the board on {port} answered with {type(reply).__name__} where {kind.__name__} was due",
            "its firmware is out of step: reset it",
        )
    return reply


def _stack(rows: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    return np.stack(rows) if rows else np.zeros((0, 0), np.int8)


class BoardRuntime(Int8Runtime):
    """The far end of the wire. ``act_batch`` sends float32 and lets the board quantize; ``close`` leaves the board open."""

    name = "board"

    def __init__(self, board: Board) -> None:
        self._board = board
        self.n_obs, self.n_act = board.info.n_obs, board.info.n_act
        self.input_quant, self.output_quant = board.input_quant, board.output_quant

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """Actions, float32 [n, n_act]; the board quantizes and dequantizes. Raises what ``Board.request`` raises."""
        actions = self._board.infer_batch(np.ascontiguousarray(observations, np.float32))
        return np.array([reply.action for reply in actions], np.float32).reshape(-1, self.n_act)

    def infer_int8_batch(self, inputs: Int8Array) -> Int8Array:
        """See Int8Runtime. Raises what ``Board.request`` raises."""
        actions = self._board.infer_int8_batch(inputs)
        return np.array([reply.output for reply in actions], np.int8).reshape(-1, self.n_act)

    def layers_int8_batch(self, inputs: Int8Array) -> list[LayerTensor]:
        """See Int8Runtime. Raises what ``Board.request`` raises."""
        return self._board.layers_int8_batch(inputs)


def _operator_names(bundle: Bundle | None, n_ops: int) -> list[str]:
    """Names of the model's operators: the bundle knows them, the board counts them."""
    if bundle is not None:
        with np.load(bundle.file(GOLDEN)) as golden:
            names = [str(name) for name in golden["operators"]]
        if len(names) == n_ops:
            return names
    return [f"operator {op}" for op in range(n_ops)]
