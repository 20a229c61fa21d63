"""Whether the board is fast enough for its control loop. Times are recorded; loose limits catch boards that are too slow."""

import time
from collections.abc import Callable

import numpy as np

from balance_hil.boards import Board
from balance_hil.bundle import Bundle

ROUND_TRIPS = 200


def round_trips_us(action: Callable[[], object]) -> np.ndarray:
    times = np.empty(ROUND_TRIPS)
    for i in range(ROUND_TRIPS):
        start = time.perf_counter()
        action()
        times[i] = (time.perf_counter() - start) * 1e6
    return times


def test_round_trip_fits_the_control_period(hil_board: Board, hil_bundle: Bundle, hil_measure: Callable[..., None]) -> None:
    observation = np.zeros(hil_board.info.n_obs, np.float32)
    times = round_trips_us(lambda: hil_board.infer(observation))
    period_us = hil_bundle.spec.control_period_s * 1e6
    hil_measure("round_trip_median", float(np.median(times)), "us", maximum=period_us)
    hil_measure("round_trip_p99", float(np.percentile(times, 99)), "us")


def test_time_on_the_wire(hil_board: Board, hil_measure: Callable[..., None]) -> None:
    payload = bytes(64)
    hil_measure("echo_median", float(np.median(round_trips_us(lambda: hil_board.echo(payload)))), "us")
