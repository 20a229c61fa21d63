import re
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.boards import Board, pieces, session
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.errors import (
    BoardRebootedError,
    BoardStatusError,
    CableUnpluggedError,
    EnvironmentMismatchError,
    ModelMismatchError,
    SilentBoardError,
    TooManyLostError,
    UnknownEnvironmentError,
    UsageError,
)
from balance_hil.protocol import messages
from balance_hil.quantize import dequantize, quantize
from balance_hil.recording import read_recording
from balance_hil.running import RunConfig, run
from balance_hil.testing.fake_board import FakeFirmware, FakeLink, fake_board, fake_info, linear_policy

pytestmark = pytest.mark.usefixtures("clock")  # a busy computer must not turn a reply into a lost one
GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]


def config(tmp_path=None, steps=100, **options):
    recording = tmp_path / "run.mcap" if tmp_path else None
    defaults = {"seeds": [3, 4], "clock": "lockstep", "max_steps": steps, "check_tflm": False, "reply_timeout_s": 0.01}
    return RunConfig(**{**defaults, "recording": recording, **options})


def kinds(recording):
    return [fault["kind"] for fault in recording.faults]


def test_a_run_is_the_episodes_of_the_policy(board, firmware, linear_bundle, tmp_path):
    result = run(board, linear_bundle, config(tmp_path))
    assert result.verdict.good
    assert [(e.seed, e.steps, e.failed) for e in result.episodes] == [(3, 100, False), (4, 100, False)]
    assert (result.late, result.lost, result.unsent, result.held_steps, result.reboots) == (0, 0, 0, 0, 0)
    assert result.tflm_check.checked == 200
    back = read_recording(result.recording)
    env = envs.make("balance/Balance-v0").unwrapped
    for index, seed in enumerate([3, 4]):
        observation, _ = env.reset(seed=seed)
        for row in np.flatnonzero(back.episode == index):
            assert np.array_equal(back.observation[row], observation)
            q = quantize(observation, linear_bundle.input_quant)
            action = dequantize(firmware.policy(q), linear_bundle.output_quant)
            assert np.array_equal(back.input_int8[row], q)
            assert np.array_equal(back.action[row], action)
            observation, reward, _, _, info = env.step(action)
            assert back.plant["pitch_rad"][row] == pytest.approx(info["pitch_rad"], rel=1e-8)
            assert back.reward[row] == pytest.approx(reward, rel=1e-8)
    assert back.meta["board"]["engine"] == "fake"
    assert "nonce" not in back.meta["board"]
    assert [episode["seed"] for episode in back.episodes] == [3, 4]


@pytest.mark.parametrize("lost", [set(), {17, 40}])
def test_a_run_in_pieces_is_the_same_run(linear_bundle, tmp_path, monkeypatch, lost):
    """As if neither observation nor action fitted a frame."""

    def once(name):
        firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle), lose=lost)
        with fake_board(firmware, linear_bundle) as board:
            result = run(board, linear_bundle, config(recording=tmp_path / name, seeds=[3]))
        assert result.lost == len(lost)
        return read_recording(result.recording)

    whole = once("whole.mcap")
    monkeypatch.setattr(session, "fits_frame", lambda n_obs, n_act, width: False)
    monkeypatch.setattr(pieces, "OBSERVATION_PIECE", 4)
    pieced = once("pieced.mcap")
    for name in ("observation", "input_int8", "action"):
        assert np.array_equal(getattr(pieced, name), getattr(whole, name))


def test_the_same_run_gives_the_same_bytes(linear_bundle, tmp_path):
    def once(name, **options):
        firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle), lose={17, 40})
        with fake_board(firmware, linear_bundle) as board:
            return run(board, linear_bundle, config(recording=tmp_path / name, **options)).recording.read_bytes()

    assert once("a.mcap") == once("b.mcap")
    assert once("c.mcap", seeds=[3, 5]) != once("a.mcap")


def test_a_fall_ends_the_episode_and_fails_the_run(linear_bundle):
    away = FakeFirmware(fake_info(linear_bundle), linear_policy(-np.array(GAINS), linear_bundle))
    with fake_board(away, linear_bundle) as board:
        result = run(board, linear_bundle, config())
    assert not result.verdict.good
    assert all(episode.failed and episode.steps < 100 for episode in result.episodes)
    assert result.to_dict()["success_rate"] == 0.0


def test_lost_replies_hold_and_are_counted(board, firmware, linear_bundle, tmp_path):
    firmware.lose = {10, 11, 50}
    result = run(board, linear_bundle, config(tmp_path))
    assert (result.lost, result.held_steps, result.longest_hold, result.late) == (3, 3, 2, 0)
    assert not any(episode.failed for episode in result.episodes)
    back = read_recording(result.recording)
    assert back.held.nonzero()[0].tolist() == [10, 11, 50]
    assert np.array_equal(back.action[10], back.action[9])
    assert kinds(back) == ["lost"] * 3
    assert (back.faults[0]["episode"], back.faults[0]["step"]) == (0, 10)


def test_a_held_step_leaves_the_wheel_command_where_it_is(board, firmware, linear_bundle, tmp_path):
    firmware.lose = {10}
    back = read_recording(run(board, linear_bundle, config(tmp_path, seeds=[3], steps=12)).recording)
    env = envs.make("balance/Balance-v0").unwrapped
    env.reset(seed=3)
    for action in back.action[:10]:
        env.step(action)
    env.advance(env.substeps)
    observation, *_ = env.finish_step()
    assert np.array_equal(back.observation[11], observation)


def test_more_losses_than_allowed_end_the_run(board, firmware, linear_bundle, tmp_path):
    firmware.lose = range(20, 10_000, 2)
    with pytest.raises(TooManyLostError, match="6 control steps got no reply in time") as caught:
        run(board, linear_bundle, config(tmp_path, max_lost=5))
    assert "--max-lost" in caught.value.hint
    back = read_recording(tmp_path / "run.mcap")
    assert len(back) == 30
    assert back.meta["ended"].startswith("6 control steps")
    assert kinds(back) == ["lost"] * 6


def test_a_reply_that_comes_too_late_is_not_taken_for_the_next(board, firmware, linear_bundle):
    firmware.delay_s = lambda number: 0.015 if number == 30 else 0.0
    result = run(board, linear_bundle, config())
    assert (result.lost, result.held_steps) == (1, 1)
    assert result.verdict.good


def test_a_board_that_keeps_rebooting_fails_the_run(linear_bundle):
    firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle), reboot_at={10, 20, 30, 40})
    with fake_board(firmware, linear_bundle) as board:
        result = run(board, linear_bundle, config())
    assert not any(episode.failed for episode in result.episodes)
    assert "the board rebooted 4 times, 3 are allowed" in result.verdict.line


@pytest.mark.parametrize("silent", [False, True], ids=["READY seen", "READY lost"])
def test_a_reboot_changes_nothing_but_the_count(linear_bundle, tmp_path, silent):
    def once(name, reboot_at):
        firmware = FakeFirmware(
            fake_info(linear_bundle), linear_policy(GAINS, linear_bundle), reboot_at=reboot_at, silent_boot=silent
        )
        with fake_board(firmware, linear_bundle) as board:
            return run(board, linear_bundle, config(recording=tmp_path / name))

    calm, rough = once("calm.mcap", ()), once("rough.mcap", {10, 100})
    assert rough.reboots == 2
    assert rough.verdict.good
    assert (rough.lost, rough.held_steps) == ((2, 2) if silent else (0, 0))
    if not silent:
        calm_back, rough_back = (read_recording(result.recording) for result in (calm, rough))
        assert np.array_equal(calm_back.observation, rough_back.observation)
        assert kinds(rough_back) == ["reboot", "identified"] * 2


def test_a_board_that_comes_back_with_another_model_ends_the_run(board, firmware, linear_bundle, tmp_path):
    firmware.reboot_at = {10}
    boot = firmware.boot

    def stale_boot():
        firmware.info = replace(firmware.info, model_id="9f2c1a000000")
        return boot()

    firmware.boot = stale_boot
    with pytest.raises(ModelMismatchError, match="9f2c1a000000"):
        run(board, linear_bundle, config(tmp_path))
    assert len(read_recording(tmp_path / "run.mcap")) == 10


def test_a_board_that_never_comes_back_ends_the_run(clock, linear_bundle):
    firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle), reboot_at={10})

    class DeafLink(FakeLink):
        def write(self, data):
            if firmware.boots < 2:
                super().write(data)

    board = Board(DeafLink(firmware), linear_bundle)
    with pytest.raises(BoardRebootedError, match="did not identify itself within 3 s"):
        run(board, linear_bundle, config())


def test_an_observation_that_crashes_the_board_every_time_ends_the_run(board, firmware, linear_bundle, tmp_path):
    firmware.reboot_at = range(20, 10_000)
    with pytest.raises(BoardRebootedError, match="3 times over the same observation"):
        run(board, linear_bundle, config(tmp_path))
    back = read_recording(tmp_path / "run.mcap")
    assert len(back) == 20
    assert kinds(back) == ["reboot", "identified", "reboot", "identified", "reboot"]


def test_the_cable_comes_out(board, firmware, linear_bundle, tmp_path):
    firmware.unplug_at = 30
    with pytest.raises(CableUnpluggedError):
        run(board, linear_bundle, config(tmp_path))
    back = read_recording(tmp_path / "run.mcap")
    assert len(back) == 30
    assert back.meta["ended"] == "fake vanished while it was in use"
    assert back.episodes[0]["failed"] is False


def test_a_board_that_refuses_the_observation(board, firmware, linear_bundle):
    refuse = messages.Error(messages.Status.INFERENCE_FAILED, 4, messages.Infer.TYPE)
    firmware._act = lambda request: refuse
    with pytest.raises(BoardStatusError, match="refused an observation: inference_failed"):
        run(board, linear_bundle, config())


@pytest.mark.parametrize("kind", ["drop", "corrupt", "truncate"])
def test_a_bad_line_costs_replies_but_never_a_wrong_action(firmware, linear_bundle, kind):
    board = Board(FakeLink(firmware), linear_bundle, faults=[f"{kind}:rate=0.02"], fault_seed=1)
    result = run(board, linear_bundle, config())
    assert result.lost > 0
    assert sum(result.injected_faults.values()) > 0
    assert result.held_steps == result.lost
    assert result.verdict.good
    assert result.to_dict()["injected_faults"] == result.injected_faults


def test_duplicated_frames_are_harmless(firmware, linear_bundle):
    board = Board(FakeLink(firmware), linear_bundle, faults=["duplicate:rate=1"])
    result = run(board, linear_bundle, config())
    assert (result.lost, result.held_steps) == (0, 0)
    assert result.verdict.good


def stale():
    """Every reply has the input, output and action of the observation before."""
    kept = []

    def change(reply):
        kept.append(reply)
        return kept[max(0, len(kept) - 2)]

    return change


WRONG_REPLIES = {
    "another input": (lambda reply: replace(reply, input=(reply.input ^ 1)), "int8 input 0 is"),
    "the observation before": (stale(), "int8 input . is"),
    "an input too many": (lambda reply: replace(reply, input=np.append(reply.input, np.int8(0))), "it has 7 inputs"),
    "an output too few": (lambda reply: replace(reply, output=reply.output[:1]), "it has 1 outputs, the policy 2"),
    "an action too few": (lambda reply: replace(reply, action=reply.action[:1]), "its action is"),
    "another output": (lambda reply: replace(reply, output=(reply.output ^ 1)), "its output dequantized"),
    "an action out of all bounds": (lambda reply: replace(reply, action=reply.action * np.float32(1e30)), "its action is"),
    "a slightly other action": (lambda reply: replace(reply, action=np.nextafter(reply.action, np.float32(9))), "its action is"),
    "no number": (lambda reply: replace(reply, action=np.full(2, np.nan, np.float32)), "its action is .nan"),
}


@pytest.mark.parametrize("clock_kind", ["lockstep", "realtime"])
@pytest.mark.parametrize(("change", "why"), WRONG_REPLIES.values(), ids=WRONG_REPLIES)
def test_a_wrong_reply_is_not_applied(board, firmware, linear_bundle, tmp_path, change, why, clock_kind):
    good = firmware._act

    def wrong(request):
        reply = good(request)
        changed = change(reply)
        return changed if firmware.inferences > 21 else reply

    firmware._act = wrong
    result = run(board, linear_bundle, config(tmp_path, steps=40, seeds=[3], max_lost=100, clock=clock_kind))
    back = read_recording(result.recording)
    assert (result.rejected, result.held_steps) == (19, 19)
    assert np.all(back.action[21:] == back.action[20]), "the last good action is held"
    assert kinds(back) == ["rejected"] * 19
    assert not result.verdict.good
    assert re.search(f"19 replies were wrong and not applied; the reply of step 21: .*{why}", result.verdict.line)
    assert result.to_dict()["rejected"] == 19


def damaged(reply, rng):
    """The reply with one field changed at random, checksums being right."""
    name = rng.choice(["input", "output", "action"])
    data = bytearray(getattr(reply, name).tobytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return replace(reply, **{name: np.frombuffer(bytes(data), getattr(reply, name).dtype)})


@pytest.mark.slow
def test_of_2000_wrong_replies_none_reaches_the_plant(board, firmware, linear_bundle, tmp_path):
    good, rng, latest = firmware._act, np.random.default_rng(1), []

    def wrong(request):
        reply = good(request)
        latest.append(reply)
        if firmware.inferences % 6 == 0:
            return reply
        return damaged(reply, rng) if rng.random() < 0.8 else latest[-2]

    firmware._act = wrong
    result = run(board, linear_bundle, config(tmp_path, seeds=[3, 4], steps=1200, max_lost=2400))
    back = read_recording(result.recording)
    applied = back.held.nonzero()[0]
    assert result.rejected == len(applied) > 1_980, "a reply may be that of the step before, where nothing has moved"
    inputs = quantize(back.observation, linear_bundle.input_quant)
    answers = dequantize(np.stack([firmware.policy(row) for row in inputs]), linear_bundle.output_quant)
    assert np.array_equal(back.action[~back.held], answers[~back.held])
    assert not result.verdict.good


def test_too_many_wrong_replies_end_the_run_and_blame_the_firmware(board, firmware, linear_bundle):
    good = firmware._act
    firmware._act = lambda request: replace(good(request), action=np.float32([1e30, -1e30]))
    with pytest.raises(TooManyLostError, match=r"4 control steps .* 4 rejected") as caught:
        run(board, linear_bundle, config(max_lost=3))
    assert "its firmware computes wrongly: the reply of step 0: its action is" in caught.value.hint


@pytest.mark.parametrize("clock_kind", ["lockstep", "realtime"])
def test_an_inference_that_fails_ends_the_run(board, firmware, linear_bundle, clock_kind):
    good = firmware._act
    firmware._act = lambda request: replace(good(request), status=messages.Status.INFERENCE_FAILED)
    with pytest.raises(BoardStatusError, match="failed at an observation: inference_failed"):
        run(board, linear_bundle, config(clock=clock_kind))


@pytest.mark.parametrize("clock_kind", ["lockstep", "realtime"])
def test_a_board_that_stops_answering_is_named_after_three_timeouts_and_a_hello(
    clock, board, firmware, linear_bundle, tmp_path, clock_kind
):
    firmware.lose = range(30, 10_000)
    ticks = []

    def note(tick):
        if tick.step <= 29:
            ticks.append(clock.now_s)

    with pytest.raises(SilentBoardError, match=r"stopped answering at step 30: nothing came for 0\.3 s"):
        run(board, linear_bundle, config(tmp_path, reply_timeout_s=0.1, clock=clock_kind, max_lost=1000), note)
    assert clock.now_s - ticks[-1] <= 2 * 0.3 + 0.02, "it answers the HELLO after its silence, and nothing else"
    assert read_recording(tmp_path / "run.mcap").meta["ended"].startswith("the board on ")


def test_a_computer_that_was_suspended_does_not_blame_the_board(clock, board, firmware, linear_bundle):
    read = type(board.link).read
    slept = []

    def suspended(link, timeout_s):
        if firmware.inferences == 30 and not slept:
            slept.append(True)
            clock.now_s += 60.0
            return b""
        return read(link, timeout_s)

    board.link.read = lambda timeout_s: suspended(board.link, timeout_s)
    result = run(board, linear_bundle, config())
    assert slept
    assert result.verdict.good


def test_the_policy_runs_on_another_environment_or_robot_with_the_same_signals(board, linear_bundle, tmp_path):
    file = tmp_path / "run.mcap"
    slippery = {"physics": {"friction": 0.0}}
    gripping = run(board, linear_bundle, config(environment="balance/BalanceRandomized-v0", steps=200, recording=file))
    assert gripping.environment == read_recording(file).meta["environment"] == "balance/BalanceRandomized-v0"
    assert read_recording(file).meta["options"] == {}
    file.unlink()
    sliding = run(board, linear_bundle, config(options=slippery, steps=200, recording=file))
    assert read_recording(file).meta["options"] == {"physics": {"friction": 0.0}}
    assert sliding.episodes[0].metrics != gripping.episodes[0].metrics


def test_the_environment_must_have_the_signals_of_the_bundle(board, linear_bundle, monkeypatch):
    monkeypatch.setitem(envs.CATALOG, "balance/BalanceRandomized-v0", BalanceConfig(pitch_scale_rad=0.7))
    with pytest.raises(EnvironmentMismatchError, match="made for balance/Balance-v0 cannot run on balance/BalanceRandomized-v0"):
        run(board, linear_bundle, config(environment="balance/BalanceRandomized-v0"))
    spec = replace(linear_bundle.spec, control_period_s=0.01)
    with pytest.raises(EnvironmentMismatchError, match=r"a control step of balance/Balance-v0 lasts 5 ms, not 10 ms"):
        run(board, replace(linear_bundle, spec=spec), config())
    with pytest.raises(UnknownEnvironmentError):
        run(board, replace(linear_bundle, spec=replace(spec, environment="Env99-v1")), config())


def test_the_model_is_checked_before_the_run(board, linear_bundle):
    with pytest.raises(ModelMismatchError):
        run(board, replace(linear_bundle, id="ffffffffffff"), config())


@pytest.mark.parametrize(
    ("clock", "timing", "period_s", "timeout_s"),
    [
        ("lockstep", "board", 0.005, 0.5),
        ("lockstep", "host", 0.005, 3.0),
        ("realtime", "board", 0.005, 0.1),
        ("realtime", "host", 0.005, 0.1),
        ("realtime", "board", 0.4, 0.4),
    ],
)
def test_how_long_a_reply_may_take(clock, timing, period_s, timeout_s):
    assert RunConfig(seeds=[1], clock=clock).timeout_s(timing, period_s) == timeout_s
    assert RunConfig(seeds=[1], clock=clock, reply_timeout_s=0.2).timeout_s(timing, period_s) == 0.2


@pytest.mark.parametrize("options", [{"seeds": []}, {"clock": "sundial"}, {"max_steps": 0}, {"reply_timeout_s": 0}])
def test_settings_that_make_no_sense(options):
    with pytest.raises(UsageError) as caught:
        RunConfig(**{"seeds": [1], **options})
    assert caught.value.hint


def test_ticks_are_reported_once_each(board, linear_bundle):
    ticks = []
    run(board, linear_bundle, config(steps=50), ticks.append)
    assert [(tick.episode, tick.step) for tick in ticks] == [(e, s) for e in range(2) for s in range(50)]
    assert all(len(tick.action) == 2 and tick.round_trip_us is not None for tick in ticks)
