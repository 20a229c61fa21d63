"""Real-time scheduling for a real-time run: where it is granted, taken back, or refused."""

import os
import subprocess

import pytest

from balance_hil.scheduling import BOARD_PRIORITY, LOOP_PRIORITY, real_time_priority


@pytest.fixture
def process():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def scheduling(thread: int) -> tuple[int, int]:
    return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority


def test_the_loop_comes_first_then_the_board_and_both_step_back_whatever_happens(process: int):
    with pytest.raises(RuntimeError, match="fell"), real_time_priority([process]) as granted:  # noqa: PT012
        if not granted:
            pytest.skip("this user may not schedule for real time: ulimit -r")
        assert scheduling(0) == (os.SCHED_FIFO, LOOP_PRIORITY)
        assert scheduling(process) == (os.SCHED_FIFO, BOARD_PRIORITY)
        raise RuntimeError("the robot fell")
    assert scheduling(0) == scheduling(process) == (os.SCHED_OTHER, 0)


def test_a_refusal_changes_nothing(process: int, monkeypatch: pytest.MonkeyPatch):
    def refuse(thread: int, policy: int, param: os.sched_param) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with real_time_priority([process]) as granted:
        assert not granted
        assert scheduling(process) == (os.SCHED_OTHER, 0)


def test_a_board_that_has_ended_is_no_error():
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with real_time_priority([ended.pid]):
        pass
    assert scheduling(0) == (os.SCHED_OTHER, 0)
