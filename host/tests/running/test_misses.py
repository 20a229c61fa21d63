"""Why replies were late or lost: one fake board for each cause."""

import itertools
from dataclasses import replace

import pytest

from balance_hil.recording import read_recording
from balance_hil.running import RunConfig, run
from balance_hil.running.misses import Parts
from balance_hil.scheduling import ProcessorWait
from balance_hil.testing.fake_board import FakeFirmware


@pytest.fixture
def run_on(linear_bundle, tmp_path):
    def run_on(board, on_tick=None, **options):
        options = {"seeds": [3], "max_steps": 100, "max_lost": 1000, "check_tflm": False, **options}
        result = run(board, linear_bundle, RunConfig(recording=tmp_path / "run.mcap", **options), on_tick)
        assert sum(result.miss_causes.values()) == result.late + result.lost
        return result, read_recording(result.recording)

    return run_on


@pytest.fixture
def slow_board(firmware, monkeypatch):
    """Its reply number 20 takes 8 ms on the board, and says so."""
    act = FakeFirmware._act

    def slow(self, request):
        action = act(self, request)
        return replace(action, total_us=8000, inference_us=7900) if self.inferences == 21 else action

    monkeypatch.setattr(FakeFirmware, "_act", slow)
    firmware.delay_s = lambda number: 0.008 if number == 20 else 0.0


def test_a_board_that_computes_for_long_is_the_cause(clock, board, slow_board, run_on):
    result, back = run_on(board)
    assert result.late >= 1
    assert result.miss_causes["board"] >= 1
    fault = next(fault for fault in back.faults if fault["kind"] == "late")
    assert (fault["host_us"], fault["board_us"]) == (pytest.approx(0, abs=1), 8000)
    assert fault["link_us"] == pytest.approx(0, abs=1)
    assert "because of the board" in fault["detail"]
    assert back.meta["result"]["miss_causes"] == result.miss_causes


def test_a_link_that_keeps_a_reply_is_the_cause(clock, board, firmware, run_on):
    firmware.delay_s = lambda number: 0.008 if number == 20 else 0.0
    result, _ = run_on(board)
    assert result.late >= 1
    assert result.miss_causes == {"host": 0, "board": 0, "link": result.late}


def test_a_host_that_does_not_read_in_time_is_the_cause(clock, board, firmware, run_on, monkeypatch):
    firmware.delay_s = lambda number: 0.0052 if number == 20 else 0.0
    write, written = board.link.write, itertools.count()

    def busy_after_writing(data):
        write(data)
        clock.now_s += 0.0078 if next(written) == 21 else 0.0

    monkeypatch.setattr(board.link, "write", busy_after_writing)
    result, back = run_on(board)
    assert (result.late, result.miss_causes) == (1, {"host": 1, "board": 0, "link": 0})
    assert back.faults[0]["host_us"] == pytest.approx(7800, abs=10)


def test_a_host_that_sends_too_late_is_the_cause(clock, board, firmware, run_on):
    firmware.delay_s = lambda number: 0.002

    def busy(tick):
        clock.now_s += 0.0068 if tick.step == 20 else 0.0

    result, back = run_on(board, busy)
    assert (result.late, result.miss_causes) == (1, {"host": 1, "board": 0, "link": 0})
    assert back.faults[0]["host_us"] == pytest.approx(3800, abs=10)


def test_a_loop_that_gets_no_processor_is_the_cause(clock, board, firmware, run_on, monkeypatch):
    """The host waits for the reply, which is there, and the kernel runs other programs."""
    firmware.delay_s = lambda number: 0.008 if number == 20 else 0.0
    monkeypatch.setattr(ProcessorWait, "total_us", lambda wait: 7000.0 if firmware.inferences > 21 else 0.0)
    result, _ = run_on(board)
    assert result.late >= 1
    assert result.miss_causes["host"] == 1


def test_a_loop_that_wakes_too_late_is_the_cause(clock, board, firmware, run_on, monkeypatch):
    """The kernel, or the host of a virtual machine, ends a sleep of a millisecond after seven."""
    firmware.delay_s = lambda number: 0.0052 if number == 20 else 0.0
    poll = board.poll

    def oversleep(timeout_s):
        frame = poll(timeout_s)
        clock.now_s += 0.0078 if frame is not None and timeout_s > 0 and firmware.inferences == 22 else 0.0
        return frame

    monkeypatch.setattr(board, "poll", oversleep)
    result, back = run_on(board)
    assert (result.late, result.miss_causes) == (1, {"host": 1, "board": 0, "link": 0})
    assert back.faults[0]["host_us"] == pytest.approx(7000, abs=10)


def test_a_lost_reply_is_the_links_where_the_board_replies_to_the_next(clock, board, firmware, run_on):
    firmware.lose = {40, 41}
    result, _ = run_on(board)
    assert (result.lost, result.miss_causes) == (2, {"host": 0, "board": 0, "link": 2})


def test_a_lost_reply_is_the_boards_where_it_rebooted_or_stopped(clock, board, firmware, run_on):
    firmware.reboot_at = {40}
    firmware.lose = {99, 100, 101}
    result, _ = run_on(board)
    assert result.lost >= 2
    assert result.miss_causes == {"host": 0, "board": result.lost, "link": 0}


def test_a_reply_counted_as_lost_that_comes_after_all_decides_itself(clock, board, firmware, run_on):
    firmware.delay_s = lambda number: 0.15 if number == 40 else 0.0
    result, _ = run_on(board)
    assert result.lost >= 1
    assert result.miss_causes["link"] == result.lost + result.late


@pytest.mark.parametrize(
    ("elapsed_us", "host_us", "board_us", "parts", "cause"),
    [
        (6000, 100, 500, (100, 500, 5400), "link"),
        (6000, 100, 5500, (100, 5500, 400), "board"),
        (6000, 4000, 1900, (4000, 1900, 100), "host"),
        (6000, 9000, 900, (6000, 0, 0), "host"),  # two threads of an emulator waited at the same time
        (6000, 0, 9000, (0, 6000, 0), "board"),  # a clock of a board that runs fast
    ],
)
def test_the_largest_part_is_the_cause(elapsed_us, host_us, board_us, parts, cause):
    assert tuple(Parts.of(elapsed_us, host_us, board_us)) == parts
    assert Parts.of(elapsed_us, host_us, board_us).cause == cause
