"""A link that corrupts and drops frames loses replies but never produces a wrong one."""

from collections.abc import Callable

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.comparing.inputs import random_inputs
from balance_hil.errors import ReplyTimeoutError
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Action
from balance_hil.runtimes.base import ModelRuntime

REQUESTS = 300
IN_FLIGHT = 40  # fit into the smallest receive buffer that test_identity.py allows
FAULTS = (
    "corrupt:rate=0.05",
    "drop-byte:rate=0.001",
    "truncate:rate=0.02",
    "duplicate:rate=0.02",
    "drop:rate=0.02",
)
REPLY_TIMEOUT_S = 0.05
SILENCE_S = 0.1  # no reply for this long: none is pending
MIN_ANSWERED = REQUESTS // 4  # about three quarters arrive; the rest is margin for a busy computer


def test_no_wrong_action_gets_through(
    hil_connect: Callable[..., Board], hil_runtime_tflm: ModelRuntime, hil_measure: Callable[..., None]
) -> None:
    board = hil_connect(faults=FAULTS, fault_seed=1)
    inputs = random_inputs(board.info.n_obs, board.input_quant, REQUESTS, 9).raw
    expected = hil_runtime_tflm.infer_raw_batch(inputs)
    answered = 0
    if board.in_pieces:
        pytest.skip("its inputs take several frames: host/tests/boards/test_pieces.py")
    for start in range(0, REQUESTS, IN_FLIGHT):
        sent = {board.send(board.raw_request(inputs[row])): row for row in range(start, min(start + IN_FLIGHT, REQUESTS))}
        while (frame := board.poll(SILENCE_S)) is not None:
            row = sent.pop(frame.seq, None)
            if row is None:
                continue  # the second reply to a request that was duplicated
            assert isinstance(frame.message, Action)
            assert np.array_equal(frame.message.input, inputs[row]), "the board acted on an input that was never sent"
            assert np.array_equal(frame.message.output, expected[row])
            answered += 1
    assert sum(board.injected_faults.values()) > 0, "no fault was injected: the test is void"
    hil_measure("answered", answered, "1", minimum=MIN_ANSWERED)


def test_the_board_counts_what_was_damaged(hil_connect: Callable[..., Board]) -> None:
    board = hil_connect(faults=["corrupt:rate=0.5,direction=tx"], fault_seed=2)
    for _ in range(50):
        board.send(messages.Echo(b"some bytes to hit"))
    while board.poll(REPLY_TIMEOUT_S) is not None:
        pass  # replies to the echoes that arrived
    # The request for the counters can be lost as well: repeat it until one is answered.
    stats = next(stats for stats in (_try_stats(board) for _ in range(100)) if stats is not None)
    # A flipped bit can also split a frame or turn it into a text line; most are counted as damaged frames.
    assert stats.crc_errors + stats.framing_errors >= board.injected_faults["corrupt tx"] // 2 > 0


def _try_stats(board: Board) -> messages.Stats | None:
    try:
        reply = board.request(messages.StatsRequest(), REPLY_TIMEOUT_S)
    except ReplyTimeoutError:
        return None
    return reply if isinstance(reply, messages.Stats) else None
