"""The results of a training matrix as ``results.json`` and ``results.md``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from balance_hil.training.matrix import Run

# What is asked of every policy.
MAX_ACTION_RATE = 0.05
MAX_WHEEL_SPEED_DIFFERENCE_ERROR_RMS_RAD_S = 5.0
MAX_INT8_BYTES = 8192

# key of a result, heading, how to print it, and which end is the worst
_COLUMNS: tuple[tuple[str, str, Callable[[float], str], Callable[[Sequence[float]], float]], ...] = (
    ("success_rate", "success_rate", lambda v: f"{v:.0%}", min),
    ("wall_s", "training s", lambda v: f"{v:.0f}", max),
    ("cpu_s", "processor s", lambda v: f"{v:.0f}", max),
    ("steps", "steps", lambda v: f"{v:,.0f}", max),
    ("action_rate", "action rate", lambda v: f"{v:.3f}", max),
    ("speed_error_rms_rad_s", "speed error, rad/s RMS", lambda v: f"{v:.1f}", max),
    ("wheel_speed_difference_error_rms_rad_s", "wheel-speed-difference error, rad/s RMS", lambda v: f"{v:.1f}", max),
    ("int8_success_rate", "int8 success", lambda v: f"{v:.0%}", min),
    ("int8_max_error", "int8 max error", lambda v: f"{v:.3f}", max),
    ("int8_bytes", "int8 bytes", lambda v: f"{v:,.0f}", max),
)


def good(result: Mapping[str, Any]) -> bool:
    """Whether a finished run did what is asked of every policy."""
    return bool(
        result["success_rate"] == 1.0
        and result["action_rate"] <= MAX_ACTION_RATE
        and result["wheel_speed_difference_error_rms_rad_s"] <= MAX_WHEEL_SPEED_DIFFERENCE_ERROR_RMS_RAD_S
        and result.get("int8_success_rate", 1.0) == 1.0
        and result.get("int8_bytes", 0) <= MAX_INT8_BYTES
    )


def document(runs: Sequence[Run], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain JSON types: conditions, median and worst of each algorithm, every run."""
    return {
        "conditions": dict(conditions),
        "algorithms": {name: _summary(of) for name, of in _by_algorithm(runs).items()},
        "runs": [
            {
                "algorithm": run.request.algorithm,
                "seed": run.request.seed,
                "state": run.state,
                "reason": run.reason,
                "process_s": round(run.wall_s, 1),
                **run.result,
                "good": run.state == "done" and good(run.result),
            }
            for run in runs
        ],
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Two tables from what ``document`` returns: each algorithm's median and worst, and every run."""
    columns = [column for column in _COLUMNS if any(column[0] in run for run in results["runs"])]
    lines = _row("algorithm", "good", *(f"{heading}" for _, heading, _, _ in columns))
    lines += _row(*["---"] * (len(columns) + 2))
    for name, summary in results["algorithms"].items():
        cells = []
        for key, _, show, _ in columns:
            values = summary["metrics"].get(key)
            median, worst = (show(values["median"]), show(values["worst"])) if values else ("-", "-")
            cells.append(median if median == worst else f"{median} / {worst}")
        lines += _row(name, f"{summary['good']} of {summary['runs']}", *cells)
    lines += ["", "Median / worst over the seeds; one number where they are equal. Each run:", ""]
    lines += _row("algorithm", "seed", *(heading for _, heading, _, _ in columns), "")
    lines += _row(*["---"] * (len(columns) + 3))
    for run in results["runs"]:
        cells = [show(run[key]) if key in run else "-" for key, _, show, _ in columns]
        note = (
            ""
            if run["good"]
            else "misses a target"
            if run["state"] == "done"
            else f"{run['state']}: {run['reason']}".rstrip(": ")
        )
        lines += _row(run["algorithm"], run["seed"], *cells, note)
    lines += ["", *(f"- {name}: {value}" for name, value in results["conditions"].items())]
    return "\n".join(lines) + "\n"


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes both files; each is complete or as it was before."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("results.json", json.dumps(results, indent=2) + "\n"), ("results.md", markdown(results))):
        partial = folder / f"{name}.partial"
        partial.write_text(text)
        partial.replace(folder / name)


def _by_algorithm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.request.algorithm, []).append(run)
    return groups


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    finished = [run.result for run in runs if run.state == "done"]
    metrics = {}
    for key, _, _, worst in _COLUMNS:
        values = [result[key] for result in finished if key in result]
        if values:
            metrics[key] = {"median": statistics.median(values), "worst": worst(values)}
    return {"runs": len(runs), "finished": len(finished), "good": sum(good(result) for result in finished), "metrics": metrics}


def _row(*cells: object) -> list[str]:
    return ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |"]
