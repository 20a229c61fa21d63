"""One self-contained HTML page about one recording: without external scripts, fonts or pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import require
from balance_hil.recording import Recording
from balance_hil.reporting.figures import draw_histogram, draw_run, has_timings, to_svg

SHARES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
MAX_FAULT_ROWS = 200
_NOT_IDENTITY = ("format", "ended", "spec")


def render_page(recording: Recording, name: str) -> str:
    """The page about ``recording``; ``name`` is its file name, for the title. Raises MissingExtraError."""
    require("jinja2", "report")
    require("matplotlib", "report")
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text())
    timed = has_timings(recording)
    drawings = {"run_svg": draw_run(recording), "histogram_svg": draw_histogram(recording) if timed else None}
    # SVG drawn here, with texts escaped by matplotlib.
    svgs = {key: Markup(to_svg(figure, key)) if figure else None for key, figure in drawings.items()}  # noqa: S704
    return template.render(
        title=name,
        lead=_lead(recording),
        run_title="Plant, action and round trip" if timed else "Plant and action",
        tiles=list(_tiles(recording)),
        timing={"columns": list(SHARES), "rows": list(_timing_rows(recording))},
        losses=sorted(Counter(str(fault["kind"]) for fault in recording.faults).items()),
        faults=[_fault_row(fault) for fault in recording.faults[:MAX_FAULT_ROWS]],
        more_faults=max(0, len(recording.faults) - MAX_FAULT_ROWS),
        episodes=list(_episode_rows(recording)),
        identity=[(name, value) for name, value in _flatten(_identity(recording)) if value],
        **svgs,
    )


def _lead(recording: Recording) -> str:
    meta = recording.meta
    board = meta.get("board", "")
    name = board.get("board", "") if isinstance(board, Mapping) else board
    parts = (recording.spec.environment, f"board {name}", f"{meta.get('clock', '')} clock", f"bundle {meta.get('bundle', '')}")
    ended = meta.get("ended", "complete")
    early = [recording.missing] if recording.missing else [f"ended early: {ended}"] if ended != "complete" else []
    return " · ".join([*parts, *early])


def _tiles(recording: Recording) -> Iterable[dict[str, str]]:
    finished = recording.episodes
    passed = sum(not episode.get("failed", True) for episode in finished)
    verdict = "good" if finished and passed == len(finished) else "bad"
    yield {"name": "episodes without failure", "value": f"{passed} of {len(finished)}", "verdict": verdict}
    yield {"name": "control steps", "value": f"{len(recording)}", "verdict": ""}
    held = int(recording.held.sum())
    yield {"name": "steps without a new action", "value": f"{held}", "verdict": "bad" if held else "good"}
    if len(recording):
        for name, values in recording.plant.items():
            known = values[np.isfinite(values)]
            if len(known):
                yield {"name": f"{name}, RMS", "value": f"{np.sqrt(np.mean(known**2)):.4g}", "verdict": ""}
        rate = _action_rate(recording.action, recording.episode)
        yield {"name": "action rate, mean |Δaction|", "value": f"{rate:.4f}", "verdict": ""}
    yield from _board_tiles(recording.meta)
    if has_timings(recording):
        p50, p99 = np.nanpercentile(recording.round_trip_us, (50, 99)) / 1e3
        yield {"name": "round trip, median", "value": f"{p50:.2f} ms", "verdict": ""}
        late = p99 > recording.spec.control_period_s * 1e3
        yield {"name": "round trip, p99", "value": f"{p99:.2f} ms", "verdict": "bad" if late else "good"}


def _board_tiles(meta: Mapping[str, Any]) -> Iterable[dict[str, str]]:
    """Resources that the policy takes on the board, as far as the board reports them."""
    board = meta.get("board")
    facts = board if isinstance(board, Mapping) else {}
    costs = {
        "instructions of an inference": (meta.get("instructions_per_inference"), ""),
        "tensor arena": (facts.get("arena_used"), " B"),
        "static RAM": (facts.get("ram"), " B"),
        "image in flash": (facts.get("flash"), " B"),
    }
    for name, (number, unit) in costs.items():
        if number:
            yield {"name": name, "value": f"{number:,}{unit}", "verdict": ""}


def _timing_rows(recording: Recording) -> Iterable[dict[str, Any]]:
    rows = {
        "round trip (µs)": recording.round_trip_us,
        "inference on the board (µs)": recording.inference_us,
        "tick jitter (µs)": recording.jitter_us,
    }
    for name, values in rows.items():
        if np.any(np.isfinite(values)):
            cells = [f"{np.nanpercentile(values, share):.0f}" for share in SHARES.values()]
            yield {"name": name, "cells": cells}


def _episode_rows(recording: Recording) -> Iterable[dict[str, str]]:
    results = {int(episode["episode"]): episode for episode in recording.episodes}
    for number in np.unique(recording.episode):
        rows = recording.episode == number
        result = results.get(int(number), {})
        outcome = "not finished" if not result else "failed" if result.get("failed", True) else "good"
        yield {
            "seed": str(result.get("seed", "")),
            "steps": f"{int(rows.sum())}",
            "outcome": outcome,
            "return": f"{recording.reward[rows].sum():.4g}",
            "held": f"{int(recording.held[rows].sum())}",
            "action_rate": f"{_action_rate(recording.action[rows], recording.episode[rows]):.4f}",
        }


def _fault_row(fault: Mapping[str, Any]) -> dict[str, str]:
    detail = f": {fault['detail']}" if fault.get("detail") else ""
    return {"at": f"{fault['t_s']:.3f} s, episode {fault['episode']}, step {fault['step']}", "text": f"{fault['kind']}{detail}"}


def _identity(recording: Recording) -> dict[str, Any]:
    return {key: value for key, value in recording.meta.items() if key not in _NOT_IDENTITY}


def _flatten(meta: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in meta.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name} ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _action_rate(action: NDArray[np.float32], episode: NDArray[np.int64]) -> float:
    """Mean |difference| of consecutive actions, over steps and elements, not across episodes."""
    steps = np.abs(np.diff(action.astype(np.float64), axis=0))[np.diff(episode) == 0]
    return float(steps.mean()) if steps.size else 0.0
