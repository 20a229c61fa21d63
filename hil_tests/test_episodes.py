"""The robot stays up on what the board computes. Equal inputs are judged bit for bit, the closed loop by survival."""

from collections.abc import Callable
from pathlib import Path

import pytest

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.errors import TooManyLostError
from balance_hil.rollout import evaluation_seeds
from balance_hil.running import RunConfig, RunResult, run

EPISODE_STEPS = 6000  # 30 s
REPEATED_STEPS = 500
pytestmark = pytest.mark.timeout(1800)  # ten episodes on an emulator beside other programs
# Share of a real-time episode's steps that may go without a reply in time. A busy computer costs some, which is not the board's
# fault; a board that is too slow for its control period loses all of them.
MAX_LOST_SHARE = 0.2
# Of a board whose real time is the host's (timing = "host" in its file), a fall is judged only below this share of held steps.
MAX_HELD_SHARE = 0.02


def report(result: RunResult, measure: Callable[..., None]) -> None:
    """Survival and equality are the verdict; the rest is written down."""
    measure("action_rate", result.summary.action_rate, "1")
    measure("speed_error_rms", result.summary.speed_error_rms, "rad/s")
    measure("control_rate", result.control_rate_hz, "Hz")
    fallen = [f"seed {episode.seed} after {episode.steps} steps" for episode in result.episodes if not episode.survived]
    assert not fallen, f"the robot fell: {', '.join(fallen)}"
    measure("survival", result.summary.survival, "1", minimum=1.0)
    measure("inputs_checked", result.verdict.checked, "1", minimum=1)
    measure("differing_from_tflm", result.verdict.differing or 0, "1", maximum=0)


def test_lockstep_episodes(
    hil_board: Board, hil_bundle: Bundle, hil_log_dir: Path, hil_measure: Callable[..., None], hil_episodes: int
) -> None:
    seeds = evaluation_seeds(hil_episodes)
    config = RunConfig(seeds=seeds, clock="lockstep", max_steps=EPISODE_STEPS, recording=hil_log_dir / "lockstep.mcap")
    result = run(hil_board, hil_bundle, config)
    hil_measure("lost", result.lost, "1", maximum=0)
    report(result, hil_measure)


def test_lockstep_repeats_byte_for_byte(hil_board: Board, hil_bundle: Bundle, hil_log_dir: Path) -> None:
    recordings = []
    for name in ("first.mcap", "second.mcap"):
        config = RunConfig(seeds=[1], clock="lockstep", max_steps=REPEATED_STEPS, recording=hil_log_dir / name)
        run(hil_board, hil_bundle, config)
        recordings.append((hil_log_dir / name).read_bytes())
    assert recordings[0] == recordings[1], f"two equal runs differ: compare the recordings in {hil_log_dir}"


def test_one_real_time_episode(
    hil_board: Board, hil_bundle: Bundle, hil_log_dir: Path, hil_measure: Callable[..., None], hil_seconds: float
) -> None:
    steps = round(hil_seconds / hil_bundle.spec.control_period_s)
    result = run_in_real_time(hil_board, hil_bundle, steps, hil_log_dir / "realtime.mcap")
    assert result.round_trip_us is not None
    hil_measure("round_trip_p50", result.round_trip_us.p50, "us")
    hil_measure("round_trip_p99", result.round_trip_us.p99, "us")
    if result.jitter_us is not None:
        hil_measure("jitter_p99", result.jitter_us.p99, "us")
    hil_measure("held_share", result.held_steps / result.steps, "1")
    report(result, hil_measure)


def run_in_real_time(board: Board, bundle: Bundle, steps: int, recording: Path) -> RunResult:
    """One episode; skips the test when a busy computer kept an emulated board from answering."""
    config = RunConfig(seeds=evaluation_seeds(1), max_steps=steps, max_lost=int(MAX_LOST_SHARE * steps), recording=recording)
    starved = f"the emulator of {board.name} did not get its turn often enough: run it on an idle computer"
    try:
        result = run(board, bundle, config)
    except TooManyLostError as exc:
        if board.definition.timing == "host":
            pytest.skip(f"{starved} ({exc.message})")
        raise
    if board.definition.timing == "host" and result.verdict.good and result.summary.survival < 1:
        held = result.held_steps / result.steps
        if held > MAX_HELD_SHARE:
            pytest.skip(f"{starved} ({held:.0%} of the steps were held)")
    return result
