"""The robot stays up on what the board computes. Equal inputs are judged bit for bit, the closed loop by survival."""

from collections.abc import Callable
from pathlib import Path

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.rollout import evaluation_seeds
from balance_hil.running import RunConfig, RunResult, run

LOCKSTEP_EPISODES = 10
EPISODE_STEPS = 6000  # 30 s
REPEATED_STEPS = 500
# Steps of a real-time episode that may go without a reply in time. A busy computer costs some, which is not the board's fault;
# a board that is too slow for its control period loses all of them.
MAX_LOST = EPISODE_STEPS // 5


def report(result: RunResult, measure: Callable[..., None]) -> None:
    """Survival and equality are the verdict; the rest is written down."""
    measure("chatter", result.summary.chatter, "1")
    measure("speed_error_rms", result.summary.speed_error_rms, "rad/s")
    measure("control_rate", result.control_rate_hz, "Hz")
    fallen = [f"seed {episode.seed} after {episode.steps} steps" for episode in result.episodes if not episode.survived]
    assert not fallen, f"the robot fell: {', '.join(fallen)}"
    measure("survival", result.summary.survival, "1", minimum=1.0)
    measure("inputs_checked", result.verdict.checked, "1", minimum=1)
    measure("differing_from_tflm", result.verdict.differing or 0, "1", maximum=0)


def test_ten_lockstep_episodes(hil_board: Board, hil_bundle: Bundle, hil_log_dir: Path, hil_measure: Callable[..., None]) -> None:
    seeds = evaluation_seeds(LOCKSTEP_EPISODES)
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


def test_one_real_time_episode(hil_board: Board, hil_bundle: Bundle, hil_log_dir: Path, hil_measure: Callable[..., None]) -> None:
    config = RunConfig(
        seeds=evaluation_seeds(1), max_steps=EPISODE_STEPS, max_lost=MAX_LOST, recording=hil_log_dir / "realtime.mcap"
    )
    result = run(hil_board, hil_bundle, config)
    assert result.round_trip_us is not None
    hil_measure("round_trip_p50", result.round_trip_us.p50, "us")
    hil_measure("round_trip_p99", result.round_trip_us.p99, "us")
    if result.jitter_us is not None:
        hil_measure("jitter_p99", result.jitter_us.p99, "us")
    hil_measure("held_share", result.held_steps / result.steps, "1")
    report(result, hil_measure)
