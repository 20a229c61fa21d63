import contextlib
import signal

import mujoco
import numpy as np
import pytest

from balance_hil import core_queue
from balance_hil.boards import Board
from balance_hil.environment import open_environment
from balance_hil.errors import UsageError
from balance_hil.recording import read_recording
from balance_hil.running import RunConfig, RunInterrupted, run
from balance_hil.testing.fake_board import FakeFirmware, FakeLink, fake_info, linear_policy

pytestmark = pytest.mark.usefixtures("clock")
GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]


class View:
    """A live view whose requests come from a script: those of control step k are taken before it."""

    def __init__(self, script):
        self.script, self.asked = dict(script), -1
        self.result, self.meta, self.steps, self.faults, self.refused, self.pauses = None, None, [], [], [], []

    def begin(self, meta, env, *, can_inject, encode):
        self.meta, self.can_inject = meta, can_inject

    def step(self, run_s, step):
        self.steps.append(step)

    def fault(self, run_s, episode, step, kind, detail="", **numbers):
        self.faults.append((step, kind))

    def injected(self, *arguments):
        pass

    def episode(self, run_s, result):
        pass

    def requests(self):
        self.asked += 1
        given = self.script.pop(self.asked, [])
        return given if isinstance(given, list) else given() or []

    def refuse(self, reason):
        self.refused.append(reason)

    def paused(self, paused):
        self.pauses.append(paused)


@pytest.fixture
def go(linear_bundle, tmp_path):
    """Runs with these requests by hand; returns result, recording and view."""

    def go(script, clock="realtime", steps=200, seeds=(3,), name="run.mcap", on_wait=None):
        view = None if script is None else View(script)
        firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle))
        config = RunConfig(seeds=seeds, clock=clock, max_steps=steps, check_tflm=False, recording=tmp_path / name)
        with Board(FakeLink(firmware), linear_bundle, injectable=clock == "realtime") as board:
            result = run(board, linear_bundle, config, live=view, on_wait=on_wait)
        return result, read_recording(result.recording), view

    return go


@pytest.mark.parametrize("clock_name", ["realtime", "lockstep"])
def test_a_run_that_is_only_watched_is_the_same_run(go, clock_name):
    _, alone, _ = go(None, clock_name, name="a.mcap")
    result, watched, view = go({}, clock_name, name="b.mcap")
    assert np.array_equal(alone.observation, watched.observation)
    assert result.interventions == {}
    assert len(view.steps) == 200
    assert view.meta["policy"]
    assert view.result["verdict"]["good"]


def test_in_lockstep_the_recordings_are_equal_byte_for_byte(go, tmp_path):
    go(None, "lockstep", name="a.mcap")
    go({}, "lockstep", name="b.mcap")
    assert (tmp_path / "a.mcap").read_bytes() == (tmp_path / "b.mcap").read_bytes()


def test_a_push_is_felt_recorded_and_counted(go):
    _, alone, _ = go({}, name="a.mcap")
    result, pushed, _ = go({50: [{"do": "push", "x_m_s": 0.5, "y_m_s": 0}]}, name="b.mcap")
    assert np.array_equal(alone.observation[:50], pushed.observation[:50])
    assert not np.allclose(alone.observation[52], pushed.observation[52], atol=0.01)
    assert [(fault["kind"], fault["step"]) for fault in pushed.faults] == [("push", 50)]
    assert "by hand" in pushed.faults[0]["detail"]
    assert result.interventions == {"push": 1}
    assert result.to_dict()["interventions"] == {"push": 1}


def test_a_pause_costs_no_miss_and_no_simulated_time(go, clock):
    start_s = clock.now_s
    go({}, name="a.mcap")
    usual_s = clock.now_s - start_s
    start_s = clock.now_s
    waiting = {101 + k: [] for k in range(500)}
    result, paused, view = go({100: [{"do": "pause"}], **waiting, 601: [{"do": "resume"}]}, name="b.mcap")
    assert clock.now_s - start_s == pytest.approx(usual_s + 501 * 0.01, abs=0.02)
    assert (result.late, result.lost, result.unsent, result.held_steps, result.stalls_ms.count) == (0, 0, 0, 0, 0)
    assert result.jitter_us.max < 1
    assert result.wall_s < usual_s + 0.02
    assert view.pauses == [True, False]
    assert [(fault["kind"], fault["step"]) for fault in paused.faults] == [("paused", 100)]
    assert len(paused.observation) == 200


def test_a_paused_run_lets_others_have_its_cores_and_queues_again(go):
    held, waited, other = [], [], contextlib.ExitStack()

    def look():
        held.append(len(list(core_queue.FOLDER.glob("*.ticket"))))

    def another_begins():
        look()
        assert held[-1] == 0, "this one would wait forever"
        other.enter_context(core_queue.cores(1000))

    def wait(told):
        waited.append(told)
        other.close()  # the other one ends

    script = {50: look, 100: [{"do": "pause"}], 101: another_begins, 102: [{"do": "resume"}], 103: look}
    result, _, view = go(script, on_wait=wait)
    assert held == [1, 0, 1]
    assert waited == ["waiting for a free core: 1 real-time run ahead"]
    assert view.pauses == [True, False]
    assert (result.steps, result.late + result.lost) == (200, 0)
    assert list(core_queue.FOLDER.glob("*.ticket")) == []


def test_ctrl_c_ends_a_pause(go):
    with pytest.raises(RunInterrupted) as interrupted:
        go({100: [{"do": "pause"}], 110: lambda: signal.raise_signal(signal.SIGINT)})
    assert interrupted.value.result.steps == 100
    assert interrupted.value.result.interventions == {"paused": 1}


def test_a_target_moves_until_the_end_of_the_episode(go):
    def errors(value):
        asked = {20: [{"do": "target", "name": "speed_target_rad_s", "value": value}]}
        result, _, view = go(asked, steps=400, seeds=(3, 4), name=f"{value}.mcap")
        assert result.interventions == {"target": 1}
        return np.array([step.plant[1] for step in view.steps])

    difference = errors(10.0) - errors(-10.0)
    assert np.all(difference[:20] == 0)
    assert difference[20] == pytest.approx(20.0)
    assert difference[399] != 0
    assert np.all(difference[400:] == 0)  # the next episode has its own


def test_a_fault_is_injected_from_now_on(go):
    result, back, view = go({100: [{"do": "fault", "fault": "drop:rate=1,direction=rx,for_s=0.1"}]})
    assert view.can_inject
    assert result.interventions == {"fault": 1}
    assert 5 <= result.injected_faults["drop rx"] <= 21
    lost = [fault["step"] for fault in back.faults if fault["kind"] == "lost"]
    assert lost
    assert min(lost) >= 100
    assert all(0.5 <= each["t_s"] <= 0.61 for each in back.injected)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"do": "fly"}, "unknown request"),
        ({"do": ["push"]}, "unknown request"),
        ({"do": "push"}, "invalid request"),
        ({"do": "push", "x_m_s": 99, "y_m_s": 0}, "at most"),
        ({"do": "push", "x_m_s": "nan", "y_m_s": 0}, "at most"),
        ({"do": "push", "x_m_s": {}, "y_m_s": 0}, "invalid request"),
        ({"do": "target", "name": "altitude", "value": 1}, "no target altitude"),
        ({"do": "target", "name": "speed_target_rad_s", "value": 1e9}, "can be"),
        ({"do": "target", "name": "speed_target_rad_s", "value": float("nan")}, "can be"),
        ({"do": "fault", "fault": "dorp:rate=1"}, "unknown fault"),
        ({"do": "fault", "fault": "power-cycle"}, "cannot be injected"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(go, request_, reason):
    _, alone, _ = go({}, name="a.mcap")
    result, back, view = go({50: [request_]}, name="b.mcap")
    assert len(view.refused) == 1
    assert reason in view.refused[0]
    assert result.interventions == {}
    assert back.faults == []
    assert np.array_equal(alone.observation, back.observation)


def test_no_fault_is_injected_in_lockstep(go):
    result, _, view = go({50: [{"do": "fault", "fault": "drop"}]}, "lockstep")
    assert not view.can_inject
    assert "real time" in view.refused[0]
    assert result.injected_faults == {}


@pytest.mark.parametrize("velocity", [[0.4, 0, 0], [-0.2, 0.3, 0]])
def test_a_push_changes_the_velocity_of_the_center_of_mass(velocity):
    with open_environment("balance/Balance-v0") as env:
        env.reset(seed=1)
        robot = env.env.unwrapped
        model, data = robot.model, robot.data

        def velocity_of_center():
            mujoco.mj_fwdPosition(model, data)
            mujoco.mj_fwdVelocity(model, data)
            mujoco.mj_subtreeVel(model, data)
            return data.subtree_linvel[1].copy()

        before = velocity_of_center()
        env.push(velocity)
        assert velocity_of_center() - before == pytest.approx(velocity, abs=1e-9)


def test_what_is_no_mujoco_environment_cannot_be_pushed():
    with open_environment("CartPole-v1") as env:
        assert not env.can_push
        assert env.targets == {}
        with pytest.raises(UsageError, match="MuJoCo"):
            env.push([1, 0, 0])
