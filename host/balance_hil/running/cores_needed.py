"""How many cores of this computer a run in real time takes."""

from __future__ import annotations

from balance_hil.boards import Board
from balance_hil.boards.kinds import find_kind
from balance_hil.errors import LinkError
from balance_hil.scheduling import processor_time_s

LOOP_CORES = 0.2  # that the loop and the plant take, measured with the balance robot at 200 Hz
MARGIN = 2.0  # over the processor time of the exchanges with an emulated board: with less, runs side by side have late replies
TRIES, ECHOES = 3, 10  # to measure it; the try that took least counts, for other programs lengthen some


def cores_of(board: Board, control_period_s: float) -> float:
    """For loop, plant and board: an emulated one on a slow computer, or at a high rate, takes more than its kind's CORES."""
    usual = float(getattr(find_kind(board.definition.kind), "CORES", 0.0))
    return LOOP_CORES + max(usual, MARGIN * _exchange_s(board) / control_period_s)


def _exchange_s(board: Board) -> float:
    """Processor time that an emulated board takes to receive and answer an observation, without the inference."""
    if not board.process_ids:
        return 0.0
    if board.faults is not None and board.faults.faults:  # an ECHO that they lose costs a second
        return 0.0
    try:
        return min(_echoes_s(board) for _ in range(TRIES)) / ECHOES
    except LinkError:  # the run will say what is wrong
        return 0.0


def _echoes_s(board: Board) -> float:
    before_s = processor_time_s(board.process_ids)
    for _ in range(ECHOES):
        board.echo(bytes(min(4 * board.info.n_obs, 256)))
    return processor_time_s(board.process_ids) - before_s
