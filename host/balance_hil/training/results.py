"""The results of a training matrix as ``results.json`` and ``results.md``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from balance_hil.files import write_atomically
from balance_hil.training.matrix import Run

MAX_INT8_BYTES = 8192

Show = Callable[[float], str]
Worst = Callable[[Sequence[float]], float]
# key of a result, heading, how to print it, and which end is the worst; the metrics of the environment come in the middle
_BEFORE: tuple[tuple[str, str, Show, Worst], ...] = (
    ("success_rate", "success", lambda v: f"{v:.0%}", min),
    ("wall_s", "training s", lambda v: f"{v:.0f}", max),
    ("cpu_s", "processor s", lambda v: f"{v:.0f}", max),
    ("steps", "steps", lambda v: f"{v:,.0f}", max),
)
_AFTER: tuple[tuple[str, str, Show, Worst], ...] = (
    ("int8_success_rate", "int8 success", lambda v: f"{v:.0%}", min),
    ("int8_max_error", "int8 max error", lambda v: f"{v:.3f}", max),
    ("int8_bytes", "int8 bytes", lambda v: f"{v:,.0f}", max),
)


def good(result: Mapping[str, Any]) -> bool:
    """Whether a finished run did what is asked: no failure, every limit kept, in int8 as well where it was exported."""
    return bool(result["good"] and result.get("int8_success_rate", 1.0) == 1.0 and result.get("int8_bytes", 0) <= MAX_INT8_BYTES)


def _columns(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Show, Worst]]:
    """The columns that any result has something for."""
    metrics = dict.fromkeys(name for result in results for name in result.get("metrics", {}))
    lower = max  # nearly every metric but the return is an error or a rate
    middle: list[tuple[str, str, Show, Worst]] = [
        (name, name.replace("_", " "), lambda v: f"{v:.3g}", min if name == "return" else lower) for name in metrics
    ]
    return [each for each in (*_BEFORE, *middle, *_AFTER) if any(_value(result, each[0]) is not None for result in results)]


def _value(result: Mapping[str, Any], key: str) -> float | None:
    value: float | None = result.get(key, result.get("metrics", {}).get(key))
    return value


def document(runs: Sequence[Run], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain JSON types: conditions, median and worst of each algorithm, every run."""
    return {
        "schema": "balance_hil/train-matrix@2",
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
    columns = _columns(results["runs"])
    lines = _row("algorithm", "good", *(heading for _, heading, _, _ in columns))
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
        values = [(_value(run, key), show) for key, _, show, _ in columns]
        cells = ["-" if value is None else show(value) for value, show in values]
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
        write_atomically(folder / name, text)


def _by_algorithm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.request.algorithm, []).append(run)
    return groups


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    finished = [run.result for run in runs if run.state == "done"]
    metrics = {}
    for key, _, _, worst in _columns(finished):
        values = [value for value in (_value(result, key) for result in finished) if value is not None]
        metrics[key] = {"median": statistics.median(values), "worst": worst(values)}
    return {"runs": len(runs), "finished": len(finished), "good": sum(good(result) for result in finished), "metrics": metrics}


def _row(*cells: object) -> list[str]:
    return ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |"]
