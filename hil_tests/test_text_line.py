"""Text lines, as typed in a serial monitor and sent by the reference project's host program."""

from __future__ import annotations

import functools
import operator
import time

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.bundle import GOLDEN, Bundle
from balance_hil.protocol import messages

LINE_DEADLINE_S = 5.0


def ask(board: Board, line: bytes) -> str:
    """Sends a line, returns the reply."""
    board.send_raw(line)
    answer = b""
    deadline = time.monotonic() + LINE_DEADLINE_S
    while not answer.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        assert left_s > 0, f"no line came back, only {answer!r}"
        answer = (answer + board.link.read(left_s)).lstrip(b"\x00\n")  # what ends a frame, and READY
    return answer.decode("ascii").strip()


def as_line(values: np.ndarray, end: bytes = b"\n") -> bytes:
    return ",".join(f"{value:.9g}" for value in values).encode() + end


def numbers(answer: str) -> np.ndarray:
    return np.array([float(word) for word in answer.split(",")], np.float32)


def with_checksum(line: bytes) -> bytes:
    return line + b"*%02x" % functools.reduce(operator.xor, line, 0)


@pytest.fixture(autouse=True)
def takes_lines(hil_board: Board) -> None:
    if hil_board.in_pieces:
        pytest.skip("the model's numbers do not fit a text line")
    hil_board.echo(b"here")  # reads a second answer to the greeting, which would be taken for the first line


@pytest.fixture(scope="module")
def observations(hil_bundle: Bundle) -> np.ndarray:
    """The golden ones: random over the whole range of the policy's inputs, and what it meets in its environment."""
    with np.load(hil_bundle.file(GOLDEN)) as golden:
        rows: np.ndarray = golden["observations"]
    return rows[:: max(1, len(rows) // 20)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_line_is_answered_by_the_action(hil_board: Board, observations: np.ndarray, end: bytes) -> None:
    for observation in observations:
        expected = hil_board.infer(observation).action
        answer = ask(hil_board, as_line(observation, end))
        assert np.array_equal(numbers(answer), expected), f"the line says {answer}, ACTION {expected!r}"


def test_the_longest_way_to_write_an_observation_fits(hil_board: Board) -> None:
    observation = np.full(hil_board.info.n_obs, -1.23456789e-38, np.float32)
    line = as_line(observation)
    assert len(line) <= hil_board.info.max_text
    assert np.array_equal(numbers(ask(hil_board, line)), hil_board.infer(observation).action)


def test_a_checksum_is_checked_and_answered_by_one(hil_board: Board, observations: np.ndarray) -> None:
    line = as_line(observations[0], b"")
    answer = ask(hil_board, with_checksum(line) + b"\n")
    assert with_checksum(answer[:-3].encode()) == answer.encode()
    assert np.array_equal(numbers(answer[:-3]), hil_board.infer(observations[0]).action)
    wrong = with_checksum(line)[:-2] + (b"00" if not with_checksum(line).endswith(b"00") else b"01")
    assert ask(hil_board, wrong + b"\n").startswith("error: line_damaged*")


def test_lines_can_be_switched_off_until_the_next_session(hil_board: Board) -> None:
    line = as_line(np.zeros(hil_board.info.n_obs))
    assert hil_board.request(messages.SetTextLine(0)) == messages.TextLine(0)
    assert ask(hil_board, line) == "error: text_line_off"
    assert hil_board.identify().max_text > 0, "a new session"
    assert len(numbers(ask(hil_board, line))) == hil_board.info.n_act


def test_a_line_does_not_end_the_safe_state_of_a_session(hil_board: Board) -> None:
    observation = np.zeros(hil_board.info.n_obs, np.float32)
    hil_board.infer(observation)
    deadline = time.monotonic() + LINE_DEADLINE_S
    while not hil_board.stats().safe_state:
        assert time.monotonic() < deadline, "the watchdog did not trip"
    assert len(numbers(ask(hil_board, as_line(observation)))) == hil_board.info.n_act
    assert hil_board.stats().safe_state == 1
    hil_board.set_watchdog(0)  # so that a slow host cannot trip it again before the next request
    hil_board.infer(observation)
    assert hil_board.stats().safe_state == 0


def test_a_line_works_before_the_handshake_too(hil_board: Board) -> None:
    hil_board.send(messages.Reset())
    frame = hil_board.poll(LINE_DEADLINE_S)
    while frame is not None and isinstance(frame.message, messages.Info):  # a HELLO may have been sent, and answered, twice
        frame = hil_board.poll(LINE_DEADLINE_S)
    assert frame is not None
    assert isinstance(frame.message, messages.Ready)
    try:
        answer = ask(hil_board, as_line(np.zeros(hil_board.info.n_obs)))
    finally:
        hil_board.identify()
    assert len(answer.split(",")) == hil_board.info.n_act


@pytest.mark.parametrize("line", [b"hello", b"1,2,", b"1;2;3;4;5;6", b"*"])
def test_a_line_that_is_no_list_of_numbers_is_refused(hil_board: Board, line: bytes) -> None:
    assert ask(hil_board, line + b"\n") == "error: malformed_line"
    assert hil_board.echo(b"frames go on") == b"frames go on"


def test_another_number_of_numbers_is_refused(hil_board: Board) -> None:
    n_obs = hil_board.info.n_obs
    for count in {max(1, n_obs - 1), n_obs + 1, n_obs + 300} - {n_obs}:
        assert ask(hil_board, b",".join([b"0"] * count) + b"\n") == "error: wrong_count"
        assert hil_board.echo(b"frames go on") == b"frames go on"


def test_a_line_that_is_too_long_is_refused(hil_board: Board) -> None:
    assert ask(hil_board, b"9" * (hil_board.info.max_text + 1) + b"\n") == "error: oversized"
    assert hil_board.echo(b"frames go on") == b"frames go on"


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999"])
def test_a_number_that_is_not_finite_is_refused(hil_board: Board, word: str) -> None:
    words = ["0"] * (hil_board.info.n_obs - 1) + [word]
    assert ask(hil_board, (",".join(words) + "\n").encode()).startswith("error: non_finite")


def test_lines_and_frames_may_alternate(hil_board: Board, observations: np.ndarray) -> None:
    for observation in observations:
        expected = hil_board.infer(observation).action
        assert np.array_equal(numbers(ask(hil_board, as_line(observation))), expected)
