"""Recovery from a silent host, a reset and a power loss, and the related counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.errors import BoardRebootedError, UsageError
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Stats

DEADLINE_S = 10.0
WATCHDOG_MS = 50
SILENCES = 5


def wait_for(board: Board, condition: Callable[[Stats], bool], what: str) -> Stats:
    """Polls the counters until ``condition`` holds."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        stats = board.stats()
        if condition(stats):
            return stats
    pytest.fail(f"not within {DEADLINE_S:g} s: {what}; {stats}")


def zeros(board: Board) -> np.ndarray:
    return np.zeros(board.info.n_obs, np.float32)


@pytest.fixture
def watchdog(hil_board: Board) -> Iterator[Board]:
    """The board; ending the session afterwards restores its watchdog timeout."""
    yield hil_board
    hil_board.identify()


def test_silence_brings_the_safe_state_and_an_observation_ends_it(watchdog: Board) -> None:
    watchdog.set_watchdog(0)
    watchdog.infer(zeros(watchdog))
    before = watchdog.stats()
    assert before.safe_state == 0
    assert watchdog.set_watchdog(30) == 30
    tripped = wait_for(watchdog, lambda stats: stats.safe_state == 1, "safe state after 30 ms without an observation")
    assert tripped.watchdog_trips == before.watchdog_trips + 1
    watchdog.set_watchdog(0)  # so that a slow host cannot trip it again before the next request
    watchdog.infer(zeros(watchdog))
    assert watchdog.stats().safe_state == 0


def test_the_watchdog_trips_in_time(watchdog: Board, hil_measure: Callable[..., None]) -> None:
    """On the board's clock. The counters are asked for all the time: requests that carry no observation do not feed it.

    Several times, for a busy computer asks too seldom.
    """
    watchdog.set_watchdog(WATCHDOG_MS)
    measured = [silence_ms(watchdog) for _ in range(SILENCES)]
    hil_measure("watchdog_trips", min(tripped for tripped, _ in measured), "ms", minimum=WATCHDOG_MS)
    hil_measure("watchdog_still_waits", float(np.median([waiting for _, waiting in measured])), "ms", maximum=2 * WATCHDOG_MS)


def silence_ms(board: Board) -> tuple[int, int]:
    """After an observation: the longest time until the board was in the safe state, the shortest during which it was not yet."""
    before_ms = board.stats().uptime_ms
    board.infer(zeros(board))
    waiting = fed = board.stats()

    def tripped(stats: Stats) -> bool:
        nonlocal waiting
        waiting = waiting if stats.safe_state else stats
        return stats.safe_state == 1

    trip = fed if fed.safe_state else wait_for(board, tripped, f"safe state after {WATCHDOG_MS} ms without an observation")
    return trip.uptime_ms - before_ms, waiting.uptime_ms - fed.uptime_ms


def test_a_silence_trips_once(watchdog: Board) -> None:
    watchdog.set_watchdog(20)
    watchdog.infer(zeros(watchdog))
    first = wait_for(watchdog, lambda stats: stats.safe_state == 1, "safe state")
    later = wait_for(watchdog, lambda stats: stats.uptime_ms > first.uptime_ms + 100, "100 ms more")
    assert later.watchdog_trips == first.watchdog_trips


def test_watchdog_can_be_switched_off(watchdog: Board) -> None:
    assert watchdog.set_watchdog(0) == 0
    watchdog.infer(zeros(watchdog))
    start = watchdog.stats()
    later = wait_for(watchdog, lambda stats: stats.uptime_ms > start.uptime_ms + 200, "200 ms more")
    assert later.safe_state == 0
    assert later.watchdog_trips == start.watchdog_trips


def test_the_watchdog_time_ends_with_the_session(hil_board: Board) -> None:
    usual_ms = hil_board.identify().watchdog_ms
    hil_board.set_watchdog(usual_ms + 1)
    assert hil_board.identify().watchdog_ms == usual_ms


def test_reset_restarts_the_board_as_the_same_board(hil_board: Board) -> None:
    before = hil_board.info
    wait_for(hil_board, lambda stats: stats.uptime_ms > 50, "50 ms of uptime")
    hil_board.infer(zeros(hil_board))
    uptime_ms = hil_board.stats().uptime_ms
    after = hil_board.reset()
    assert (after.board, after.model_id, after.firmware_commit) == (before.board, before.model_id, before.firmware_commit)
    stats = hil_board.stats()
    assert stats.inferences == 0
    assert stats.uptime_ms < uptime_ms + 1000
    hil_board.infer(zeros(hil_board))
    assert hil_board.stats().inferences == 1


def test_ready_names_the_cause(hil_board: Board) -> None:
    hil_board.send(messages.Reset())
    frame = hil_board.poll(DEADLINE_S)
    while frame is not None and isinstance(frame.message, messages.Info):  # a HELLO may have been sent, and answered, twice
        frame = hil_board.poll(DEADLINE_S)
    assert frame is not None
    assert isinstance(frame.message, messages.Ready)
    assert frame.seq == 0
    assert frame.message.reset_cause == 1, "requested by RESET"
    assert (frame.message.protocol, frame.message.schema_crc) == (messages.PROTOCOL_VERSION, messages.SCHEMA_CRC)
    hil_board.identify()


def test_a_reboot_in_the_middle_of_a_request_is_recognized(hil_board: Board) -> None:
    hil_board.send(messages.Reset())
    with pytest.raises(BoardRebootedError):
        hil_board.infer(zeros(hil_board))
    hil_board.identify()
    assert hil_board.infer(zeros(hil_board)).status == 0


def test_power_cycle(hil_board: Board) -> None:
    hil_board.infer(zeros(hil_board))
    try:
        hil_board.power_cycle()
    except UsageError as exc:
        pytest.skip(exc.message)  # a physical board: its power cannot be switched
    assert hil_board.stats().inferences == 0
    assert hil_board.infer(zeros(hil_board)).status == 0


def test_counters_count(hil_board: Board) -> None:
    before = hil_board.stats()
    for _ in range(10):
        hil_board.infer(zeros(hil_board))
    after = hil_board.stats()
    assert after.inferences == before.inferences + 10
    assert after.requests == before.requests + 11 or hil_board.in_pieces
    assert after.errors == before.errors
    assert after.arena_used == hil_board.info.arena_used
    assert 0 < after.inference_min_us <= after.inference_max_us or after.inference_min_us == 0


def test_times_of_an_inference_add_up(hil_board: Board, hil_measure: Callable[..., None]) -> None:
    actions = hil_board.infer_batch(np.zeros((200, hil_board.info.n_obs), np.float32))
    for action in actions:
        assert action.inference_us <= action.total_us, "the inference takes longer than its whole request"
    hil_measure("inference_median", float(np.median([a.inference_us for a in actions])), "us")
    hil_measure("total_median", float(np.median([a.total_us for a in actions])), "us")
