"""A soak on a fake board, in virtual time: what it counts, keeps and fails for."""

import contextlib
import gc
import mmap
import os
import signal
import threading
import tracemalloc

import pytest

from balance_hil.recording import Step, read_recording
from balance_hil.recording.format import step_encoder
from balance_hil.running import RunConfig, SoakConfig, open_plant, soak
from balance_hil.running.anomalies import FIRST, PER_EPISODE, WORST, Anomaly, AnomalyCatcher, AnomalyFolder
from balance_hil.running.resources import resources_of
from balance_hil.testing.fake_board import FakeFirmware

from .. import contract

LEAK_BYTES = 1 << 22
STEP = Step(0.0, 0, 0, [0.0] * 6, [0.0] * 2, False, [], 1.0, [1] * 6, [2] * 2, 400.0, 17.0, 3.0)


@pytest.fixture
def soaked(clock, board, linear_bundle, tmp_path):
    """Soaks the board for some episodes; gives the result and the recordings of anomalies."""

    def soaked(episodes=4, steps=100, on_tick=None, on_minute=None, board=board):
        run = RunConfig(seeds=[3], max_steps=steps, check_tflm=False, max_lost=1000)
        config = SoakConfig(duration_s=episodes * steps * 0.005, first_seed=3, run=run, folder=tmp_path / "anomalies")
        with open_plant(linear_bundle, run) as plant:
            result = soak(board, linear_bundle, config, plant, on_tick, on_minute)
        contract.check("soak", {"schema": "balance_hil/soak@2", "soaks": [result.to_dict()]})
        return result, sorted((tmp_path / "anomalies").glob("*.mcap"))

    return soaked


def test_a_good_board_passes_and_leaves_no_recording(soaked):
    steps = []
    result, recordings = soaked(on_minute=lambda result: steps.append(result.minutes[-1]["steps"]))
    assert result.verdict.good, result.verdict.reasons
    assert (result.total.episodes, result.total.steps, result.total.anomalies, recordings) == (4, 400, 0, [])
    assert result.total.round_trip_us.count == result.total.jitter_us.count == sum(steps) == 400
    assert len(steps) > 1


def test_each_anomaly_is_recorded_with_the_second_around_it(soaked, firmware):
    firmware.delay_s = lambda number: 0.006 if number == 150 else 0.0
    firmware.lose = {450}
    result, recordings = soaked(episodes=2, steps=400)
    assert (result.total.counts["late"], result.total.counts["lost"]) == (1, 1)
    assert result.verdict.good, "misses are reported and do not fail a soak"
    assert [path.name for path in recordings] == ["000001-late.mcap", "000002-lost.mcap"]
    late, lost = map(read_recording, recordings)
    assert late.faults[0]["request_step"] == 150
    assert (len(late), late.t_s[0] / 0.005, late.t_s[-1] / 0.005) == (
        pytest.approx(200, abs=1),
        pytest.approx(50, abs=2),
        pytest.approx(250, abs=2),
    )
    assert (lost.faults[0]["kind"], lost.faults[0]["episode"]) == ("lost", 0)
    assert lost.held.any()
    assert "excerpt of a soak: lost: no reply to the observation of step 50" in lost.meta["result"]["verdict"]["reasons"][0]


def test_an_error_is_recorded_the_board_is_brought_back_and_the_soak_fails(soaked, firmware):
    firmware.lose = range(350, 480)  # silent for three reply timeouts before a HELLO is answered, and again after it
    result, recordings = soaked(episodes=6, steps=300)
    assert (result.errors, result.recoveries, result.given_up) == (1, 1, False)
    assert result.total.episodes >= 4, "it goes on"
    assert not result.verdict.good
    assert "stopped answering" in result.verdict.reasons[0]
    (recording,) = (path for path in recordings if path.name.endswith("SilentBoardError.mcap"))
    assert len(read_recording(recording)) > 40


def test_a_board_that_stays_silent_is_given_up(soaked, firmware):
    firmware.unplug_at = 150
    result, _ = soaked(episodes=1000)
    assert result.given_up
    assert result.total.episodes == 2
    assert "given up" in result.verdict.line


def test_failed_episodes_reboots_and_wrong_replies_fail_a_soak(soaked, firmware, monkeypatch):
    firmware.reboot_at = {50}
    act = FakeFirmware._act

    def spoiled(self, request):
        action = act(self, request)
        if self.inferences == 300:
            action.action[0] += 1
        return action

    monkeypatch.setattr(FakeFirmware, "_act", spoiled)
    firmware.policy = (lambda right: lambda values: right(values) * (1 if firmware.inferences < 350 else -1))(firmware.policy)
    result, recordings = soaked(episodes=8, steps=200)
    reasons = result.verdict.line
    assert "the board rebooted 1 times" in reasons
    assert "1 replies were wrong" in reasons
    assert "episodes failed" in reasons
    assert {path.stem.partition("-")[2] for path in recordings} >= {"reboot", "rejected", "failed"}


@pytest.mark.parametrize("kind", ["memory", "descriptors", "threads"])
def test_growth_fails_a_soak(soaked, kind):
    if resources_of([os.getpid()]) is None:
        pytest.skip("this system does not say what a process holds")
    hoard, over = [], threading.Event()
    gc.collect()  # garbage of earlier tests would be freed in between

    def leak(tick):
        if tick.step % 20 == 0:
            match kind:
                case "memory":
                    hoard.append(mmap.mmap(-1, LEAK_BYTES))  # not from what earlier tests freed
                    hoard[-1].write(bytes(LEAK_BYTES))
                case "descriptors":
                    hoard.append(os.dup(0))
                case "threads":
                    hoard.append(threading.Thread(target=over.wait))
                    hoard[-1].start()

    try:
        result, _ = soaked(on_tick=leak)
    finally:
        over.set()
        for thing in hoard if kind == "descriptors" else ():
            os.close(thing)
    assert [kind in reason for reason in result.verdict.reasons] == [True]


def test_ctrl_c_gives_what_was_done(soaked):
    def press(tick):
        if tick.step == 50:
            signal.raise_signal(signal.SIGINT)

    result, _ = soaked(on_tick=press)
    assert result.interrupted
    assert result.total.steps == pytest.approx(51, abs=2)
    assert result.verdict.reasons == ("interrupted",)
    assert len(result.minutes) == 1


def test_the_number_of_recordings_is_bounded_and_the_worst_are_kept(tmp_path):
    folder = AnomalyFolder(tmp_path / "anomalies", lambda path, anomaly: path.touch())
    for number in range(1, 1001):
        folder.add(Anomaly("late", "", worst_us=float(number % 500)))
    numbers = sorted(int(path.name[:6]) for path in folder.folder.iterdir())
    assert numbers[:FIRST] == list(range(1, FIRST + 1))
    worst = numbers[FIRST:]
    assert len(worst) == WORST
    assert {number % 500 for number in worst} == set(range(490, 500))


def test_two_soaks_never_share_a_folder(tmp_path):
    folders = [AnomalyFolder(tmp_path / "deep" / "soak", lambda path, anomaly: path.touch(exist_ok=False)) for _ in range(3)]
    for folder in folders:
        folder.add(Anomaly("late", "", worst_us=1.0))
    assert [folder.folder.name for folder in folders] == ["soak", "soak-2", "soak-3"]


def test_an_episode_full_of_anomalies_keeps_a_few_and_its_end():
    with contextlib.closing(AnomalyCatcher(0.5, lambda step: b"{}", None)) as catcher:
        for number in range(100):
            catcher.fault(0.5 * number, 0, number, "lost")
            catcher.step(0.5 * number, STEP)
        catcher.episode(50.0, {"failed": True, "steps": 100, "seed": 3})
        assert catcher.count == 101
        assert [anomaly.kind for anomaly in catcher.found] == ["lost"] * (PER_EPISODE - 1) + ["failed"]


@pytest.mark.slow
def test_anomalies_take_no_memory(linear_bundle):
    """Ten anomalies of a second each took 5 MiB until their episode was over."""
    with contextlib.closing(AnomalyCatcher(0.005, step_encoder(linear_bundle.spec, ()), None)) as catcher:
        for episode in range(2):  # the second one: what the first took may stay
            catcher.clear()
            for number in range(5000):
                if number == 1000 and episode:
                    tracemalloc.start()
                if number >= 1000:
                    for _ in range(5):
                        late = {"request_step": number - 1, "round_trip_us": 1e4 + number, "inference_us": 17.0}
                        catcher.fault(0.005 * number, 0, number, "late", f"the reply of step {number - 1}", **late)
                catcher.step(0.005 * number, STEP._replace(step=number, observation=[number / 7] * 6))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(catcher.found) == PER_EPISODE
        assert catcher.count > PER_EPISODE
        assert held < 150_000  # the latest steps, and a buffer of the file
