import contextlib
import itertools
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from balance_hil import core_queue
from balance_hil.boards.kinds import find_kind
from balance_hil.distribution import Distribution
from balance_hil.environment import open_environment
from balance_hil.envs import balance as envs
from balance_hil.errors import CableUnpluggedError, ModelMismatchError, ReplyTimeoutError, TooManyLostError
from balance_hil.quantize import dequantize, quantize
from balance_hil.recording import read_recording
from balance_hil.running import RunConfig, RunInterrupted, cores_needed, run
from balance_hil.running.cores_needed import cores_of
from balance_hil.running.trace import TflmCheck, Trace
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info, linear_policy

PERIOD_S = 0.005
GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]


def config(tmp_path=None, steps=200, **options):
    recording = tmp_path / "run.mcap" if tmp_path else None
    return RunConfig(**{"seeds": [3], "max_steps": steps, "check_tflm": False, "recording": recording, **options})


def kinds(recording):
    return [fault["kind"] for fault in recording.faults]


def test_a_prompt_board_gives_the_lockstep_episode(clock, board, linear_bundle, tmp_path):
    result = run(board, linear_bundle, config(tmp_path))
    assert result.verdict.good
    assert (result.late, result.lost, result.held_steps, result.stalls_ms.count) == (0, 0, 0, 0)
    assert result.jitter_us.max < 1
    realtime = read_recording(result.recording)
    lockstep = read_recording(run(board, linear_bundle, config(tmp_path, clock="lockstep")).recording)
    assert np.array_equal(realtime.observation, lockstep.observation)
    assert np.all(np.isfinite(realtime.round_trip_us))
    assert np.all(realtime.inference_us == 7)
    assert np.all(realtime.jitter_us < 1)


def test_simulated_time_keeps_up_with_the_wall_clock(clock, board, linear_bundle):
    start = clock.now_s
    run(board, linear_bundle, config(steps=400))
    assert clock.now_s - start == pytest.approx(400 * PERIOD_S, abs=PERIOD_S)


@pytest.mark.parametrize("latency_ms", [0.4, 1.5, 2.5, 4.9])
def test_an_action_takes_effect_in_the_substep_in_which_it_arrives(clock, board, firmware, linear_bundle, tmp_path, latency_ms):
    firmware.delay_s = lambda number: latency_ms / 1e3
    result = run(board, linear_bundle, config(tmp_path, steps=50))
    assert (result.late, result.held_steps) == (0, 0)
    back = read_recording(result.recording)
    assert np.allclose(back.round_trip_us, latency_ms * 1e3, atol=1)
    before = int(latency_ms)  # whole substeps that pass before the reply is there
    env = envs.make("balance/Balance-v0").unwrapped
    env.reset(seed=3)
    for step in range(49):
        env.advance(before) if before else None
        env.apply_action(back.action[step])
        env.advance(env.substeps - before)
        observation, *_ = env.finish_step()
        assert np.array_equal(observation, back.observation[step + 1]), f"step {step}"


def test_a_run_with_late_replies_can_be_simulated_again_from_its_recording(clock, board, firmware, linear_bundle, tmp_path):
    firmware.delay_s = lambda number: {0: 0.0062, 20: 0.0577}.get(number % 30, 0.0023)
    firmware.lose = {51}
    back = read_recording(run(board, linear_bundle, config(tmp_path, max_lost=200)).recording)
    assert back.earlier, "a late reply and the next one took effect in one step"
    with open_environment("balance/Balance-v0") as env:
        assert np.array_equal(env.reset(3), back.observation[0])
        for row in range(199):
            due = {at: np.float32(action) for at, action in back.earlier.get(row, [])}
            if not back.held[row]:
                due[int(back.substep[row])] = back.action[row]
            begun = itertools.count(1)
            result = env.step(None, lambda due=due, begun=begun: due.get(next(begun)))
            assert np.array_equal(result.observation, back.observation[row + 1]), f"step {row}"


def test_replies_that_always_come_one_step_late_still_take_effect(clock, board, firmware, linear_bundle, tmp_path):
    firmware.delay_s = lambda number: 0.0065
    result = run(board, linear_bundle, config(tmp_path, max_lost=1000))
    assert result.late == 200
    assert result.lost == 0
    assert result.held_steps == 1, "only before the first reply is there nothing to apply"
    back = read_recording(result.recording)
    assert kinds(back) == ["late"] * 200
    assert np.allclose(back.round_trip_us[1:], 6500, atol=1)


def test_a_single_late_reply_takes_effect_beside_the_next(clock, board, firmware, linear_bundle, tmp_path):
    firmware.delay_s = lambda number: 0.006 if number == 20 else 0.0
    result = run(board, linear_bundle, config(tmp_path))
    assert (result.late, result.lost, result.held_steps) == (1, 0, 1)
    back = read_recording(result.recording)
    assert back.held.nonzero()[0].tolist() == [20]
    assert [(fault["kind"], fault["step"]) for fault in back.faults] == [("late", 21)]


def test_lost_replies_hold_and_are_counted_once_their_time_is_up(clock, board, firmware, linear_bundle, tmp_path):
    firmware.lose = {40, 41, 42, 199}
    result = run(board, linear_bundle, config(tmp_path))
    assert (result.lost, result.late, result.held_steps, result.longest_hold) == (4, 0, 4, 3)
    back = read_recording(result.recording)
    assert back.held.nonzero()[0].tolist() == [40, 41, 42, 199]
    assert [fault["step"] for fault in back.faults[:3]] in ([60, 61, 62], [61, 62, 63]), "given up 100 ms later"


def test_more_losses_than_allowed_end_the_run(clock, board, firmware, linear_bundle, tmp_path):
    firmware.lose = [number for number in range(50, 10_000) if number % 4]
    with pytest.raises(TooManyLostError):
        run(board, linear_bundle, config(tmp_path, max_lost=30))
    back = read_recording(tmp_path / "run.mcap")
    assert back.meta["ended"].startswith("31 control steps got no reply")
    assert 90 <= len(back) <= 120


@pytest.mark.parametrize(
    ("answer_ms", "shares"),
    [((0.2, 0.1, 0.3), [0.65, 0.65]), ((1.5, 3.0, 1.6), [0.8, 1.4])],  # the cheapest try counts; at 200 and 400 Hz
)
def test_a_slow_emulated_board_takes_more_cores_than_its_kind_says(board, monkeypatch, answer_ms, shares):
    monkeypatch.setattr(find_kind(board.definition.kind), "CORES", 0.45, raising=False)
    assert cores_of(board, 0.005) == pytest.approx(0.65), "a physical board is not asked"
    monkeypatch.setattr(type(board), "process_ids", [2**22])
    for period_s, share in zip((0.005, 0.0025), shares, strict=True):
        used_s = iter(np.cumsum([part for ms in answer_ms for part in (0.0, 10 * ms / 1e3)]))
        monkeypatch.setattr(cores_needed, "processor_time_s", lambda processes, used_s=used_s: next(used_s))
        assert cores_of(board, period_s) == pytest.approx(share)


@pytest.mark.parametrize("faults", [(), ("drop:rate=1",)])
def test_a_board_that_does_not_answer_takes_the_cores_of_its_kind(board, monkeypatch, faults):
    def silence(board, data):
        assert not faults, "a link that loses replies is not asked"
        raise ReplyTimeoutError("no reply", "")

    monkeypatch.setattr(type(board), "process_ids", [2**22])
    monkeypatch.setattr(type(board), "echo", silence)
    monkeypatch.setattr(board, "faults", SimpleNamespace(faults=faults) if faults else None)
    assert cores_of(board, 0.005) == pytest.approx(0.2)


@pytest.mark.parametrize(("processes", "hint"), [([], "cable"), ([2**22], "fewer boards at once")])
def test_too_many_late_replies_of_an_emulated_board_are_not_blamed_on_its_cable(
    clock, board, firmware, linear_bundle, tmp_path, monkeypatch, processes, hint
):
    monkeypatch.setattr(type(board), "process_ids", processes)  # there is no process of this number
    firmware.delay_s = lambda number: 0.0065
    with pytest.raises(TooManyLostError) as caught:
        run(board, linear_bundle, config(tmp_path, max_lost=30))
    assert hint in caught.value.hint


def test_a_late_reply_never_takes_effect_after_a_newer_one(clock, board, firmware, linear_bundle, tmp_path):
    """The wire brings the reply of step 20 after that of step 21, in the middle of that step."""
    link, kept = board.link, []
    read = link.read

    def reordered(timeout_s):
        data = read(timeout_s)
        if data and firmware.inferences == 21 and not kept:
            kept.append(data)
            return b""
        if data and firmware.inferences == 22 and len(kept) == 1:
            kept.append(data)
            return data + kept[0]
        return data

    link.read = reordered
    result = run(board, linear_bundle, config(tmp_path))
    back = read_recording(result.recording)
    assert (result.late, result.lost, result.held_steps) == (1, 0, 1)
    assert [(fault["kind"], fault["step"]) for fault in back.faults] == [("late", 21)]
    answers = dequantize(firmware.policy(quantize(back.observation[21], linear_bundle.input_quant)), linear_bundle.output_quant)
    assert np.array_equal(back.action[21], answers)
    assert back.input_int8[21].tolist() == quantize(back.observation[21], linear_bundle.input_quant).tolist()


def test_a_reboot_is_recognized_and_the_run_goes_on(clock, board, firmware, linear_bundle, tmp_path):
    firmware.reboot_at = {50}
    result = run(board, linear_bundle, config(tmp_path))
    assert result.reboots == 1
    assert result.verdict.good
    assert 1 <= result.held_steps <= 3
    assert kinds(read_recording(result.recording))[:3] == ["reboot", "lost", "identified"]


def test_a_reboot_whose_ready_is_lost_is_recognized_by_the_refusals(clock, board, firmware, linear_bundle):
    firmware.reboot_at = {50}
    firmware.silent_boot = True
    result = run(board, linear_bundle, config())
    assert result.reboots == 1
    assert result.verdict.good


def test_a_board_that_reboots_for_ever_ends_the_run(clock, board, firmware, linear_bundle):
    firmware.reboot_at = range(50, 10_000)
    with pytest.raises(TooManyLostError):
        run(board, linear_bundle, config(max_lost=20))


def test_a_reboot_into_another_model_ends_the_run(clock, board, firmware, linear_bundle):
    firmware.reboot_at = {50}
    boot = firmware.boot

    def stale_boot():
        firmware.info = replace(firmware.info, model_id="9f2c1a000000")
        return boot()

    firmware.boot = stale_boot
    with pytest.raises(ModelMismatchError):
        run(board, linear_bundle, config())


def test_the_cable_comes_out(clock, board, firmware, linear_bundle, tmp_path):
    firmware.unplug_at = 30
    with pytest.raises(CableUnpluggedError):
        run(board, linear_bundle, config(tmp_path))
    assert len(read_recording(tmp_path / "run.mcap")) == 30


def test_a_host_that_is_late_catches_up_and_drops_no_simulated_time(clock, board, linear_bundle, tmp_path):
    def busy(tick):
        if tick.step == 20:
            clock.now_s += 0.0083  # reported in step 21, which begins on time; 22 begins 3.3 ms late

    start = clock.now_s
    result = run(board, linear_bundle, config(tmp_path), busy)
    assert result.stalls_ms.count == 0
    back = read_recording(result.recording)
    assert back.jitter_us[22] == pytest.approx(3300, abs=10)
    assert back.jitter_us[23] < 1, "the schedule was reached again"
    assert len(back) == 200
    assert clock.now_s - start == pytest.approx(200 * PERIOD_S, abs=PERIOD_S)


def test_a_host_that_stalls_moves_the_schedule_and_says_so(clock, board, linear_bundle, tmp_path):
    def stall(tick):
        if tick.step == 20:
            clock.now_s += 0.5

    start = clock.now_s
    result = run(board, linear_bundle, config(tmp_path), stall)
    assert result.verdict.good
    assert result.stalls_ms.count == 1
    assert result.stalls_ms.max == pytest.approx(495, abs=1)
    assert result.held_steps == 0, "the board is not blamed for it"
    assert clock.now_s - start == pytest.approx(0.5 + 199 * PERIOD_S, abs=2 * PERIOD_S)
    assert kinds(read_recording(result.recording)) == ["stall"]


def test_a_board_with_a_small_buffer_is_never_overrun(clock, linear_bundle):
    info = replace(fake_info(linear_bundle), rx_buffer=90)  # room for two requests
    firmware = FakeFirmware(info, linear_policy(GAINS, linear_bundle), delay_s=lambda number: 0.05 if number == 10 else 0.0)
    with fake_board(firmware, linear_bundle) as board:
        result = run(board, linear_bundle, config(max_lost=100))
    assert result.unsent == pytest.approx(8, abs=1)
    assert result.lost == 0


def test_ctrl_c_ends_between_two_steps_and_leaves_a_whole_recording(clock, board, linear_bundle, tmp_path):
    def press(tick):
        if tick.step == 25:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(board, linear_bundle, config(tmp_path), press)
    back = read_recording(tmp_path / "run.mcap")
    assert back.meta["ended"] == "interrupted"
    assert len(back) == 27
    assert signal.getsignal(signal.SIGINT) is before


def test_on_the_real_clock(board, linear_bundle):
    result = run(board, linear_bundle, config(steps=60, max_lost=1000))
    assert not result.episodes[0].failed
    assert result.wall_s > 0.25, "it must not run faster than the wall clock"
    assert result.jitter_us.count == 60


def test_late_replies_count_in_every_statistic(clock, board, firmware, linear_bundle, tmp_path):
    """The figures of the run are those of its recording: times of late replies belong to the steps that asked."""
    firmware.delay_s = lambda number: {20: 0.0577, 50: 0.006, 199: 0.03}.get(number, 0.0003)
    firmware.lose = {51, 100}
    result = run(board, linear_bundle, config(tmp_path))
    assert result.late > 4, "those behind a slow one are late as well"
    assert result.lost == 2
    back = read_recording(result.recording)
    assert (
        Distribution.of(back.round_trip_us[np.isfinite(back.round_trip_us)]).to_document() == result.round_trip_us.to_document()
    )
    assert result.round_trip_us.max == pytest.approx(57_700, abs=10)
    assert back.round_trip_us[[20, 199]] == pytest.approx([57_700, 30_000], abs=10)
    assert np.flatnonzero(np.isnan(back.round_trip_us)).tolist() == [51, 100]


def test_the_recording_keeps_what_the_run_found(clock, board, linear_bundle, tmp_path):
    result = run(board, linear_bundle, config(tmp_path))
    back = read_recording(result.recording)
    assert back.meta["result"] == result.outcome()
    assert back.meta["policy"] == "linear"


def test_ctrl_c_during_the_check_still_gives_the_result(clock, board, linear_bundle, tmp_path, monkeypatch):
    def check(trace, bundle, *, with_tflm):
        if with_tflm:
            raise KeyboardInterrupt
        return TflmCheck(checked=trace.count, differing=None, skipped="not asked for")

    monkeypatch.setattr(Trace, "check", check)
    with pytest.raises(RunInterrupted) as interrupted:
        run(board, linear_bundle, config(tmp_path, check_tflm=True))
    assert interrupted.value.result.steps == 200
    assert read_recording(tmp_path / "run.mcap").meta["ended"] == "interrupted"


def test_a_run_waits_for_free_cores_and_that_is_no_time_of_it(clock, board, linear_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(core_queue, "FOLDER", tmp_path / "cores")
    told, others = [], contextlib.ExitStack()
    others.enter_context(core_queue.cores(1000.0))

    def wait(text):
        told.append(text)
        clock.sleep(3600)  # far beyond every timeout
        others.close()

    result = run(board, linear_bundle, config(steps=200), on_wait=wait)
    assert told == ["waiting for a free core: 1 real-time run ahead"]
    assert result.verdict.good
    assert (result.late, result.lost) == (0, 0)
    assert result.wall_s == pytest.approx(1.0, abs=0.1)
    assert list((tmp_path / "cores").iterdir()) == []


def test_ctrl_c_ends_the_wait(board, linear_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(core_queue, "FOLDER", tmp_path / "cores")
    with core_queue.cores(1000.0), pytest.raises(RunInterrupted) as ended:
        run(board, linear_bundle, config(), on_wait=lambda text: signal.raise_signal(signal.SIGINT))
    assert ended.value.result.episodes == []
