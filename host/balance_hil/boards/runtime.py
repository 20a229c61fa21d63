"""A board seen as one more int8 runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from balance_hil.bundle import GOLDEN, Bundle
from balance_hil.runtimes.base import Float32Array, Int8Array, Int8Runtime, LayerTensor

if TYPE_CHECKING:
    from balance_hil.boards.board import Board


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
        return np.stack([reply.action for reply in actions]) if actions else np.zeros((0, self.n_act), np.float32)

    def infer_int8_batch(self, inputs: Int8Array) -> Int8Array:
        """See Int8Runtime. Raises what ``Board.request`` raises."""
        actions = self._board.infer_int8_batch(inputs)
        return np.stack([reply.output for reply in actions]) if actions else np.zeros((0, self.n_act), np.int8)

    def layers_int8_batch(self, inputs: Int8Array) -> list[LayerTensor]:
        """See Int8Runtime. Raises what ``Board.request`` raises."""
        return self._board.layers_int8_batch(inputs)


def operator_names(bundle: Bundle | None, n_ops: int) -> list[str]:
    """Names of the model's operators: the bundle knows them, the board counts them."""
    if bundle is not None:
        with np.load(bundle.file(GOLDEN)) as golden:
            names = [str(name) for name in golden["operators"]]
        if len(names) == n_ops:
            return names
    return [f"operator {op}" for op in range(n_ops)]
