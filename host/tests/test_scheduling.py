"""Real-time scheduling for a real-time run: where it is granted, taken back, or refused."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from balance_hil import scheduling as module
from balance_hil.boards import find_definition
from balance_hil.running.run import priority_for
from balance_hil.scheduling import (
    EARLIER_PRIORITY,
    LATER_PRIORITY,
    LOOP_PRIORITY,
    CpuLatencyRequest,
    ProcessorWait,
    keep_on_one_core,
    moving_to_free_cores,
    real_time_priority,
)


@pytest.fixture
def process():
    """A program of two threads."""
    program = "import sys, threading; threading.Thread(target=sys.stdin.read).start(); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        process.stdout.readline()
        yield process.pid
        process.kill()


def scheduling(thread: int) -> tuple[int, int]:
    return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority


@pytest.mark.parametrize("processor_first", [False, True])
def test_the_loop_comes_first_then_the_board_and_both_step_back_whatever_happens(process: int, processor_first: bool):
    run = real_time_priority([process], processor_first=processor_first)
    with pytest.raises(RuntimeError, match="fell"), run as granted:  # noqa: PT012 - the error comes from inside of the run
        if not granted:
            pytest.skip("this user may not schedule for real time: ulimit -r")
        assert scheduling(0) == (os.SCHED_FIFO, LOOP_PRIORITY)
        (other,) = {int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()} - {process}
        first, second = (other, process) if processor_first else (process, other)
        assert scheduling(first) == (os.SCHED_FIFO, EARLIER_PRIORITY)
        assert scheduling(second) == (os.SCHED_FIFO, LATER_PRIORITY)
        raise RuntimeError("the robot fell")
    assert scheduling(0) == scheduling(process) == (os.SCHED_OTHER, 0)


def test_a_refusal_changes_nothing(process: int, monkeypatch: pytest.MonkeyPatch):
    def refuse(thread: int, policy: int, param: os.sched_param) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with real_time_priority([process]) as granted:
        assert not granted
        assert scheduling(process) == (os.SCHED_OTHER, 0)


def affinities(process: int) -> list[set[int]]:
    """The cores that each thread of a process may use."""
    return [os.sched_getaffinity(int(thread.name)) for thread in Path(f"/proc/{process}/task").iterdir()]


def test_all_threads_are_kept_on_one_core(process: int):
    keep_on_one_core(process)
    first, second = affinities(process)
    assert first == second
    assert len(first) == 1
    keep_on_one_core(process)
    assert affinities(process) == [first, first]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is no other to move to")
def test_in_lockstep_a_process_may_move_and_is_kept_on_one_core_in_between(process: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOVE_INTERVAL_S", 0.001)
    monkeypatch.setattr(module, "MOVE_S", 0.001)
    keep_on_one_core(process)
    everywhere, seen = os.sched_getaffinity(0), []
    with pytest.raises(RuntimeError, match="fell"), moving_to_free_cores([process]):  # noqa: PT012 - the error comes from inside of the run
        while not ([everywhere] * 2 in seen and seen[-1] != [everywhere] * 2 and len(seen) > 100):
            seen.append(affinities(process))
        raise RuntimeError("the robot fell")
    first, second = affinities(process)
    assert first == second
    assert len(first) == 1


def test_a_process_that_is_not_kept_on_a_core_is_left_alone(process: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOVE_INTERVAL_S", 0.0)
    everywhere = affinities(process)
    with moving_to_free_cores([process]):
        pass
    assert affinities(process) == everywhere


def test_a_board_that_has_ended_is_no_error():
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    keep_on_one_core(ended.pid)
    with moving_to_free_cores([ended.pid]):
        pass
    with real_time_priority([ended.pid]):
        pass
    assert scheduling(0) == (os.SCHED_OTHER, 0)


def test_processors_stay_awake_while_the_request_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    monkeypatch.setattr(module, "CPU_LATENCY", device)
    request = CpuLatencyRequest()
    open_files = {os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()}
    assert request.granted
    assert str(device) in open_files  # the kernel forgets it when the file is closed
    assert device.read_bytes() == bytes(4)  # 0 us, int32
    request.close()
    request.close()
    assert not request.granted


def test_processors_may_sleep_where_it_is_not_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CPU_LATENCY", tmp_path / "nowhere")
    request = CpuLatencyRequest()
    assert not request.granted
    request.close()


def test_a_thread_that_waits_for_a_processor_is_noticed():
    if not Path("/proc/thread-self/schedstat").exists():
        pytest.skip("this kernel does not count it")
    spin = "while True: pass"
    core = min(os.sched_getaffinity(0))
    programs = [[sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\n{spin}"]] * 2
    first, second = (subprocess.Popen(program) for program in programs)
    try:
        with ProcessorWait([first.pid]) as wait:
            start_us = wait.total_us()
            while wait.total_us() - start_us < 50_000:  # two programs on one core: each waits half of the time
                os.sched_yield()
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    with ProcessorWait([first.pid]) as wait:
        assert wait.total_us() >= 0


def test_time_that_a_hypervisor_takes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not Path("/proc/thread-self/schedstat").exists():
        pytest.skip("this kernel does not count it")
    statistics = tmp_path / "stat"
    monkeypatch.setattr(module, "STATISTICS", statistics)
    monkeypatch.setattr(module, "_threads", lambda processes: [])
    waits_us = []
    for before in (7, 0):
        statistics.write_text(f"cpu  3104537 993079 916381 2225550 14893 0 6240 {before} 11 12\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
        with ProcessorWait([]) as wait:
            start_us = wait.total_us()
            statistics.write_text(statistics.read_text().replace(f"6240 {before}", f"6240 {before + 300}"))
            waits_us.append(wait.total_us() - start_us)
    assert round(waits_us[0]) >= 300e6 / os.sysconf("SC_CLK_TCK")  # a difference of large floats
    assert waits_us[1] < 1e6  # a computer without a hypervisor: it is not looked for


@pytest.mark.parametrize(("board", "priority"), [("f405", LATER_PRIORITY), ("qemu-m7", EARLIER_PRIORITY)])
def test_only_of_the_emulated_stm32_does_the_processor_come_first(process: int, board: str, priority: int):
    with priority_for(SimpleNamespace(definition=find_definition(board), process_ids=[process])) as granted:
        if not granted:
            pytest.skip("this user may not schedule for real time: ulimit -r")
        assert scheduling(process) == (os.SCHED_FIFO, priority)
