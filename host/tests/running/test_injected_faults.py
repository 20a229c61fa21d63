from collections import Counter

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.errors import SilentBoardError
from balance_hil.link.fault_table import KINDS
from balance_hil.recording import read_recording
from balance_hil.running import RunConfig, run
from balance_hil.testing.fake_board import FakeFirmware, FakeLink, fake_info, linear_policy

pytestmark = pytest.mark.usefixtures("clock")
GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]


class Machine:
    """The power and the memory of a fake board."""

    def __init__(self, firmware):
        self.firmware = firmware
        self.calls = []

    def restart(self):
        self.calls.append("restart")
        return FakeLink(self.firmware)

    def pause(self):
        self.calls.append("pause")

    def resume(self):
        self.calls.append("resume")

    def flip_bit(self, data, position, bit):
        self.calls.append("flip")
        good = self.firmware.policy
        self.firmware.policy = lambda values: good(values) ^ np.int8(1)
        return 1

    def process_ids(self):
        return []

    def exit_report(self):
        return None

    def close(self):
        pass


@pytest.fixture
def go(linear_bundle, tmp_path, monkeypatch):
    """Runs with faults on a fake board; returns the result, the recording and the machine."""
    monkeypatch.setattr(Board, "_weights", lambda board: b"weights")

    def go(*faults, name="run.mcap", seed=1, seeds=(3,), steps=200, **options):
        firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle))
        machine = Machine(firmware)
        config = {"seeds": seeds, "clock": "lockstep", "max_steps": steps, "check_tflm": False, "max_lost": 1000, **options}
        with Board(FakeLink(firmware), linear_bundle, machine=machine, faults=faults, fault_seed=seed) as board:
            result = run(board, linear_bundle, RunConfig(recording=tmp_path / name, **config))
        return result, read_recording(result.recording), machine

    return go


# What shows that the fault had an effect, besides its record.
EFFECTS = {
    "drop:rate=0.1": lambda r, b, m: r.lost > 0 and r.longest_hold > 1,
    "drop-byte:rate=0.01": lambda r, b, m: r.lost > 0 and r.bad_frames > 0,
    "burst:rate=0.02,frames=6,direction=rx": lambda r, b, m: r.longest_hold >= 6,
    "corrupt:rate=0.2": lambda r, b, m: r.lost > 0 and r.bad_frames > 0,
    "corrupt-byte:rate=0.01": lambda r, b, m: r.lost > 0 and r.bad_frames > 0,
    "truncate:rate=0.2": lambda r, b, m: r.lost > 0 and r.bad_frames > 0,
    "duplicate:rate=0.5": lambda r, b, m: r.lost == r.held_steps == 0 and m.firmware.inferences > 200,
    "reorder:rate=0.1": lambda r, b, m: r.late > 0,
    "garbage:rate=0.2": lambda r, b, m: r.lost > 0,
    "delay:s=0.012,rate=0.3": lambda r, b, m: r.late > 0 and r.lost == 0,
    "stall:at_s=0.1,for_s=0.05": lambda r, b, m: r.longest_hold == 10 and r.late == 10,
    "reboot:every_s=0.3": lambda r, b, m: r.reboots == 3 and m.firmware.boots == 4,
    "hang:at_step=20,for_s=0.04": lambda r, b, m: r.longest_hold == 8,
    "power-cycle:at_s=0.2": lambda r, b, m: r.reboots == 1 and m.calls == ["restart"],
    "clock-drift:ppm=1000000": lambda r, b, m: r.inference_us.max == 14,
    "flip-bit:at_s=0.2": lambda r, b, m: m.calls == ["flip"],
}


@pytest.mark.parametrize("fault", EFFECTS)
def test_a_fault_has_its_effect_and_is_recorded_and_counted(go, fault):
    result, back, machine = go(fault)
    assert EFFECTS[fault](result, back, machine)
    assert result.verdict.good, "the robot survives, and what was injected is not held against the board"
    name = fault.partition(":")[0]
    recorded = Counter(f"{each['fault']} {each['direction']}".rstrip() for each in back.injected)
    assert recorded == result.injected_faults == result.to_dict()["injected_faults"] == back.meta["result"]["injected_faults"]
    assert {counted.partition(" ")[0] for counted in recorded} == {name}
    assert all(set(KINDS[name].parameters) <= set(each["values"]) for each in back.injected)
    assert (back.meta["faults"], back.meta["fault_seed"]) == ([fault], 1)
    assert (result.to_dict()["faults"], result.to_dict()["fault_seed"]) == ([fault], 1)


def test_every_fault_is_tried():
    assert {fault.partition(":")[0] for fault in EFFECTS} == set(KINDS) - {"cut"}  # that one ends the run: test_run.py


ALL = [fault for fault in EFFECTS if not fault.startswith("flip-bit")]


def test_the_same_seed_gives_the_same_file(go, tmp_path):
    for name, seed in (("a.mcap", 7), ("b.mcap", 7), ("c.mcap", 8)):
        _, back, _ = go(*ALL, name=name, seed=seed, seeds=(3, 4), steps=120)
        assert len(back.injected) > 50
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.mcap", "b.mcap", "c.mcap"))
    assert a == b
    assert a != c


def test_a_fault_that_never_strikes_changes_nothing(go):
    _, calm, _ = go(name="calm.mcap")
    _, armed, _ = go("drop:rate=0", name="armed.mcap")
    assert np.array_equal(calm.observation, armed.observation)
    assert np.array_equal(calm.action, armed.action)


def test_a_delayed_reply_acts_on_the_plant_when_it_arrives(go):
    _, calm, _ = go(name="calm.mcap")
    _, late, _ = go("delay:s=0.005,direction=rx", name="late.mcap")
    assert np.array_equal(late.action[1], calm.action[0]), "the answer to the observation before"
    assert np.array_equal(late.action[0], [0, 0])
    assert late.held.nonzero()[0].tolist() == [0]
    _, middle, _ = go("delay:s=0.002,direction=rx", name="middle.mcap")
    assert np.array_equal(middle.action[0], calm.action[0])
    assert not np.array_equal(middle.observation[1], calm.observation[1]), "it took effect two substeps later"


def test_a_sequence_strikes_at_its_times(go):
    result, back, _ = go("drop:rate=1,direction=rx,at_s=0.1,for_s=0.02", "duplicate:rate=1,direction=tx,at_step=100,for_s=0.01")
    assert [(each["fault"], each["step"]) for each in back.injected] == [
        *[("drop", step) for step in range(20, 24)],
        *[("duplicate", step) for step in (100, 101)],
    ]
    assert back.held.nonzero()[0].tolist() == [20, 21, 22, 23]
    assert result.lost == 4


def test_a_board_that_hangs_for_long_is_named(go):
    with pytest.raises(SilentBoardError, match=r"stopped answering at step 20: nothing came for 0\.3 s"):
        go("hang:at_step=20,for_s=5", steps=400)


def test_in_real_time_a_hang_suspends_the_board(go):
    _, back, machine = go("hang:at_s=0.1,for_s=0.03", "drop:rate=0.1", clock="realtime")
    assert machine.calls == ["pause", "resume"]
    assert {each["fault"] for each in back.injected} == {"hang", "drop"}
    assert sum(fault["kind"] == "lost" for fault in back.faults) > 0


def test_after_the_run_the_link_is_whole(linear_bundle):
    firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle))
    with Board(FakeLink(firmware), linear_bundle, faults=["drop:rate=1,at_step=10"]) as board:
        run(board, linear_bundle, RunConfig(seeds=[3], clock="lockstep", max_steps=10, check_tflm=False))
        assert board.stats().inferences == 10
