"""Whether board and link are fast enough for the control loop, and lose nothing.

Times are recorded; loose limits catch boards that are too slow.
"""

import time
from collections.abc import Callable

import numpy as np

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.core_queue import cores
from balance_hil.running.cores_needed import cores_of
from balance_hil.running.run import priority_for
from balance_hil.scheduling import ProcessorWait

ROUND_TRIPS = 200
CLOCK_S = 1.0  # how long clocks are compared
CLOCK_READINGS = 20  # at each end; the quickest counts
MAX_CLOCK_ERROR = 0.05  # of the two clocks against each other; crystals are a hundred times better, RC oscillators are within 3 %
CLOCK_STEP_S = 0.001  # STATS counts milliseconds


def round_trips_us(action: Callable[[], object]) -> np.ndarray:
    times = np.empty(ROUND_TRIPS)
    for i in range(ROUND_TRIPS):
        start = time.perf_counter()
        action()
        times[i] = (time.perf_counter() - start) * 1e6
    return times


def test_round_trip_fits_the_control_period(hil_board: Board, hil_bundle: Bundle, hil_measure: Callable[..., None]) -> None:
    """On the cores and with the priority of a run in real time."""
    observation = np.zeros(hil_board.info.n_obs, np.float32)
    with cores(cores_of(hil_board, hil_bundle.spec.control_period_s)), priority_for(hil_board):
        times = round_trips_us(lambda: hil_board.infer(observation))
    period_us = hil_bundle.spec.control_period_s * 1e6
    hil_measure("round_trip_median", float(np.median(times)), "us", maximum=period_us)
    hil_measure("round_trip_p99", float(np.percentile(times, 99)), "us")


def test_inference_fits_the_control_period(hil_board: Board, hil_bundle: Bundle, hil_measure: Callable[..., None]) -> None:
    """On the board's clock."""
    actions = hil_board.infer_batch(np.zeros((ROUND_TRIPS, hil_board.info.n_obs), np.float32))
    period_us = hil_bundle.spec.control_period_s * 1e6
    hil_measure("inference_median", float(np.median([action.inference_us for action in actions])), "us", maximum=period_us)


def test_the_parts_of_an_inference_are_timed(hil_board: Board, hil_measure: Callable[..., None]) -> None:
    """Whether they add up is not checked: on an emulated board they are times of a busy computer."""
    profile = hil_board.profile()
    assert len(profile.operators) in (0, hil_board.info.n_ops)
    assert all(cost >= 0 for cost in profile.parts.values())
    hil_measure("profile_total", profile.total, profile.unit, minimum=0.0)
    hil_measure("profile_sum_of_parts", sum(profile.parts.values()), profile.unit, minimum=0.0)
    hil_board.infer(np.zeros(hil_board.info.n_obs, np.float32))
    assert hil_board.stats().safe_state == 0, "PROFILE ends in the safe state, which an observation must end"


def test_the_clock_of_the_board_runs_true(hil_board: Board, hil_measure: Callable[..., None]) -> None:
    """The board's time lies between sending the requests and receiving the replies, however busy this computer is.

    A clock that counts interrupts stands still while an emulator has no processor.
    """

    def read() -> tuple[float, int, float]:
        def once() -> tuple[float, int, float]:
            sent = time.perf_counter()
            uptime_ms = hil_board.stats().uptime_ms
            return sent, uptime_ms, time.perf_counter()

        return min((once() for _ in range(CLOCK_READINGS)), key=lambda reading: reading[2] - reading[0])

    with ProcessorWait(hil_board.process_ids if hil_board.definition.timing == "host" else None) as wait:
        first_sent, first_ms, first_received = read()
        waited_us = wait.total_us()
        time.sleep(CLOCK_S)
        waited_us = wait.total_us() - waited_us
        last_sent, last_ms, last_received = read()
    elapsed_s = (last_ms - first_ms) / 1e3
    least = (elapsed_s - CLOCK_STEP_S) / (last_received - first_sent)
    most = (elapsed_s + CLOCK_STEP_S + waited_us / 1e6) / (last_sent - first_received)
    hil_measure("clock_rate_at_least", least, "1", maximum=1 + MAX_CLOCK_ERROR)
    hil_measure("clock_rate_at_most", most, "1", minimum=1 - MAX_CLOCK_ERROR)


def test_the_link_is_clean(hil_board: Board, hil_measure: Callable[..., None]) -> None:
    """No frame is lost or damaged on the way: what the harness survives, it does not have to survive here."""
    before, bad_frames = hil_board.stats(), hil_board.bad_frames
    payload = bytes(range(1, 65))
    for _ in range(ROUND_TRIPS):
        assert hil_board.echo(payload) == payload
    after = hil_board.stats()
    damaged = after.crc_errors + after.framing_errors - before.crc_errors - before.framing_errors
    hil_measure("damaged_on_the_way_to_the_board", damaged, "1", maximum=0)
    hil_measure("damaged_on_the_way_back", hil_board.bad_frames - bad_frames, "1", maximum=0)


def test_time_on_the_wire(hil_board: Board, hil_measure: Callable[..., None]) -> None:
    payload = bytes(64)
    hil_measure("echo_median", float(np.median(round_trips_us(lambda: hil_board.echo(payload)))), "us")
