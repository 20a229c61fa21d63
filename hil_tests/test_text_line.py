"""The text line: what a person types in a serial monitor, and what the reference project's host program sends."""

from __future__ import annotations

import time

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.protocol import messages

LINE_DEADLINE_S = 5.0


def ask(board: Board, line: bytes) -> str:
    """Sends a line, returns the line that comes back."""
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


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_line_is_answered_by_the_action(hil_board: Board, end: bytes) -> None:
    rng = np.random.default_rng(4)
    for observation in rng.uniform(-1, 1, size=(20, hil_board.info.n_obs)).astype(np.float32):
        expected = hil_board.infer(observation).action
        answer = ask(hil_board, as_line(observation, end))
        assert np.array_equal(np.array([float(word) for word in answer.split(",")], np.float32), expected)


def test_a_line_works_before_the_handshake_too(hil_board: Board) -> None:
    hil_board.send(messages.Reset())
    frame = hil_board.poll(LINE_DEADLINE_S)
    assert frame is not None
    assert isinstance(frame.message, messages.Ready)
    try:
        answer = ask(hil_board, as_line(np.zeros(hil_board.info.n_obs)))
    finally:
        hil_board.identify()
    assert len(answer.split(",")) == hil_board.info.n_act


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"hello\n", "malformed_line"),
        (b"1,2,\n", "malformed_line"),
        (b"1;2;3;4;5;6\n", "malformed_line"),
        (b"1\n", "wrong_count"),
        (b",".join([b"0"] * 40) + b"\n", "wrong_count"),
        (b"9" * (messages.MAX_TEXT + 1) + b"\n", "oversized"),
    ],
)
def test_a_bad_line_says_what_is_wrong(hil_board: Board, line: bytes, status: str) -> None:
    assert ask(hil_board, line).startswith(f"error: {status}")
    assert hil_board.echo(b"frames go on") == b"frames go on"


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999"])
def test_a_number_that_is_not_finite_is_refused(hil_board: Board, word: str) -> None:
    words = ["0"] * (hil_board.info.n_obs - 1) + [word]
    assert ask(hil_board, (",".join(words) + "\n").encode()).startswith("error: non_finite")


def test_lines_and_frames_may_alternate(hil_board: Board) -> None:
    observation = np.full(hil_board.info.n_obs, 0.25, np.float32)
    for _ in range(20):
        expected = hil_board.infer(observation).action
        answer = ask(hil_board, as_line(observation))
        assert np.array_equal(np.array([float(word) for word in answer.split(",")], np.float32), expected)
