"""Episodes with the board as controller, on the environment of the bundle.

In lockstep every number must be that of TensorFlow Lite Micro in simulation. In real time the board's latency acts on the plant:
there an episode may not fail where the same seed in simulation does not.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.environment import open_for, require_control_steps
from balance_hil.errors import SilentBoardError, TooManyLostError
from balance_hil.metrics import EpisodeMetrics
from balance_hil.rollout import evaluation_seeds, rollout
from balance_hil.running import RunConfig, RunResult, run
from balance_hil.runtimes.base import ModelRuntime

REPEATED_STEPS = 500
pytestmark = pytest.mark.timeout(1800)  # ten episodes on an emulator beside other programs
# Share of a real-time episode's steps that may go without a reply in time. A busy computer causes some;
# a board that is too slow for its control period misses all of them.
MAX_LOST_SHARE = 0.2
# For a board timed by the host (timing = "host" in its file), failures count only below this share of held steps.
MAX_HELD_SHARE = 0.02


@pytest.fixture(scope="module")
def steps(hil_bundle: Bundle, hil_seconds: float | None) -> int:
    """Control steps of an episode."""
    if hil_seconds is not None:
        return max(1, round(hil_seconds / hil_bundle.spec.control_period_s))
    with open_for(hil_bundle.spec) as environment:
        return require_control_steps(environment, None)


@pytest.fixture(scope="module")
def simulated(hil_runtime_tflm: ModelRuntime, hil_bundle: Bundle, hil_episodes: int, steps: int) -> list[EpisodeMetrics]:
    """The same episodes with TensorFlow Lite Micro on this computer as controller."""
    with open_for(hil_bundle.spec) as environment:
        return rollout(hil_runtime_tflm.act_batch, environment, evaluation_seeds(hil_episodes), max_steps=steps)


def report(result: RunResult, simulated: Sequence[EpisodeMetrics], measure: Callable[..., None]) -> None:
    """Fails on failed or differing episodes; other metrics are only recorded."""
    for metric in result.metrics:
        measure(metric.name, result.summary.metrics[metric.name], metric.unit or "1")
    measure("control_rate", result.control_rate_hz, "Hz")
    measure("success_rate", result.summary.success_rate, "1")
    assert not result.rejected, f"{result.rejected} replies were wrong and not applied; {result.first_rejected}"
    worse = [
        f"seed {episode.seed} after {episode.steps} steps"
        for episode, other in zip(result.episodes, simulated, strict=True)
        if episode.failed and not other.failed
    ]
    assert not worse, f"episodes failed on the board and not in simulation with tflm: {', '.join(worse)}"
    measure("inputs_checked", result.tflm_check.checked, "1", minimum=1)
    measure("differing_from_tflm", result.tflm_check.differing or 0, "1", maximum=0)


def test_lockstep_episodes(
    hil_board: Board,
    hil_bundle: Bundle,
    hil_log_dir: Path,
    hil_measure: Callable[..., None],
    simulated: list[EpisodeMetrics],
    steps: int,
) -> None:
    seeds = [episode.seed for episode in simulated]
    # However many replies are wrong: the report below says what is wrong with the first.
    bound = {"max_steps": steps, "max_lost": len(seeds) * steps}
    config = RunConfig(seeds=seeds, clock="lockstep", recording=hil_log_dir / "lockstep.mcap", **bound)
    result = run(hil_board, hil_bundle, config)
    hil_measure("lost", result.lost, "1", maximum=0)
    report(result, simulated, hil_measure)
    assert result.episodes == simulated, (
        "lockstep gave other episodes than tflm in simulation: hil compare --closed-loop tflm,board"
    )


def test_lockstep_repeats_byte_for_byte(hil_board: Board, hil_bundle: Bundle, hil_log_dir: Path) -> None:
    recordings = []
    for name in ("first.mcap", "second.mcap"):
        config = RunConfig(seeds=[1], clock="lockstep", max_steps=REPEATED_STEPS, recording=hil_log_dir / name)
        run(hil_board, hil_bundle, config)
        recordings.append((hil_log_dir / name).read_bytes())
    assert recordings[0] == recordings[1], f"two equal runs differ: compare the recordings in {hil_log_dir}"


def test_one_real_time_episode(
    hil_board: Board,
    hil_bundle: Bundle,
    hil_log_dir: Path,
    hil_measure: Callable[..., None],
    simulated: list[EpisodeMetrics],
    steps: int,
) -> None:
    result = run_in_real_time(hil_board, hil_bundle, steps, simulated[0], hil_log_dir / "realtime.mcap")
    assert result.round_trip_us.count
    hil_measure("round_trip_p50", result.round_trip_us.p50, "us")
    hil_measure("round_trip_p99", result.round_trip_us.p99, "us")
    hil_measure("jitter_p99", result.jitter_us.p99, "us")
    hil_measure("held_share", result.held_steps / result.steps, "1")
    report(result, simulated[:1], hil_measure)


def run_in_real_time(board: Board, bundle: Bundle, steps: int, simulated: EpisodeMetrics, recording: Path) -> RunResult:
    """One episode; skips the test when a busy computer delayed an emulated board."""
    config = RunConfig(seeds=[simulated.seed], max_steps=steps, max_lost=int(MAX_LOST_SHARE * steps), recording=recording)
    starved = f"the emulator of {board.name} did not get its turn often enough: run it on an idle computer"
    try:
        result = run(board, bundle, config)
    except (TooManyLostError, SilentBoardError) as exc:
        if board.definition.timing == "host":
            pytest.skip(f"{starved} ({exc.message})")
        raise
    if board.definition.timing == "host" and not result.tflm_check.differing and result.summary.failed and not simulated.failed:
        held = result.held_steps / result.steps
        if held > MAX_HELD_SHARE:
            pytest.skip(f"{starved} ({held:.0%} of the steps were held)")
    return result
