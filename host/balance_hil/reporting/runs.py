"""The run of one recording: its verdict, its misses, and the numbers that a page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.distribution import Distribution
from balance_hil.metrics import Verdict
from balance_hil.recording import Recording
from balance_hil.recording.reader import run_time

MISSED = {"late": "late", "lost": "lost", "unsent": "not sent", "rejected": "rejected"}  # kinds of faults that are misses
TIMES = {"round trip": "round_trip_us", "inference on the board": "inference_us", "tick jitter of this computer": "jitter_us"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recording, and the numbers that are shown of it."""

    label: str = ""  # what tells it apart from the others on the page
    path: Path
    recording: Recording
    verdict: Verdict
    summary: str  # one sentence about a good run
    board: str
    policy: str
    time_s: NDArray[np.float64]  # [n], since the start, with the episodes end to end
    counts: Mapping[str, int]  # of faults, by kind
    metrics: Mapping[str, float]
    times_us: Mapping[str, Distribution]  # by column of the recording

    @property
    def period_us(self) -> float:
        """The control period."""
        return self.recording.spec.control_period_s * 1e6


def run_of(path: Path, recording: Recording) -> Run:
    """The run of a recording; what its metadata raises where they are nonsense, see ``recording_errors``."""
    meta = recording.meta
    counts = Counter(str(fault["kind"]) for fault in recording.faults)
    result = meta["result"]
    verdict = _verdict(recording)
    board = facts(recording).get("definition", facts(recording).get("board", ""))
    finished = [bool(episode.get("failed", True)) for episode in recording.episodes]
    summary = [f"{finished.count(False)} of {len(finished)} episodes without failure" if finished else "no episodes"]
    if checked := equals_tflm(recording):
        summary.append(f"board equals tflm in {checked[0] - checked[1]:,} of {checked[0]:,} outputs")
    summary.append(f"{sum(counts[kind] for kind in MISSED):,} misses in {len(recording):,} control steps")
    return Run(
        path=path,
        recording=recording,
        verdict=verdict,
        summary=", ".join(summary),
        board=str(board),
        policy=str(meta.get("policy") or meta.get("bundle", "")),
        time_s=run_time(recording),
        counts=counts,
        metrics=_metrics(recording, result),
        times_us={column: _distribution(getattr(recording, column)) for column in TIMES.values()},
    )


def facts(recording: Recording) -> Mapping[str, Any]:
    """What the board said about itself."""
    board = recording.meta.get("board")
    return board if isinstance(board, Mapping) else {"board": board or ""}


def equals_tflm(recording: Recording) -> tuple[int, int] | None:
    """Outputs that were compared with TensorFlow Lite Micro, and how many differ; None: they were not."""
    check = (recording.meta["result"] or {}).get("equals_tflm")
    return (int(check["checked"]), int(check["differing"])) if check else None


def _verdict(recording: Recording) -> Verdict:
    """That of the run, or of as much of it as was recorded."""
    result, ended = recording.meta["result"], recording.meta["ended"]
    if result is not None:
        verdict = result["verdict"]
        reasons = [str(why) for why in verdict["reasons"]]
        return Verdict(tuple(reasons or ([] if verdict["good"] is True else ["the run failed"])))
    reasons = [recording.missing] if recording.missing else [f"the run ended early: {ended}"] if ended != "complete" else []
    failed = [episode for episode in recording.episodes if episode.get("failed", True)]
    if failed:
        reasons.append(f"{len(failed)} of {len(recording.episodes)} episodes failed")
    if not recording.episodes and not reasons:
        reasons.append("no episode was finished")
    return Verdict(tuple(reasons))


def _metrics(recording: Recording, result: Mapping[str, Any] | None) -> dict[str, float]:
    """Over all episodes; of a run without a result, the mean of the finished ones."""
    each = [episode_metrics(episode) for episode in recording.episodes]
    if result is not None:
        return {str(name): float(value) for name, value in result["metrics"].items()}
    names = dict.fromkeys(name for metrics in each for name in metrics)
    return {name: float(np.mean([metrics[name] for metrics in each if name in metrics])) for name in names}


def episode_metrics(episode: Mapping[str, Any]) -> dict[str, float]:
    """Of one recorded episode."""
    return {str(name): float(value) for name, value in (episode.get("metrics") or {}).items()}


def _distribution(values: NDArray[np.float64]) -> Distribution:
    """Of what is finite, as ``hil run`` makes it."""
    return Distribution.of(np.maximum(values[np.isfinite(values)], 0.0).tolist())
