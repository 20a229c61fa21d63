"""``hil replay diverged.npz``: the episode that ended a training or an evaluation, run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from balance_hil.cli.console import make_table, print_json, stdout
from balance_hil.envs.balance.crash_repro import CrashRepro, load
from balance_hil.envs.balance.rerun import rerun
from balance_hil.errors import NonFiniteInputError, SimulationDivergedError, UsageError
from balance_hil.files import new_run_folder

SHOWN = 12  # steps before the end
RUNS = Path("runs")


@contextmanager
def kept_for_replay(what: str) -> Iterator[None]:
    """Saves the episode of an error that carries one to ``runs/<what>_<n>/diverged.npz`` and names the file in the hint."""
    try:
        yield
    except (SimulationDivergedError, NonFiniteInputError) as exc:
        if exc.crash_repro is not None:
            exc.hint += f"; {_keep(exc.crash_repro, what)}"
        raise


def _keep(crash_repro: CrashRepro, what: str) -> str:
    """Writes the episode to a new folder and returns the text for the hint."""
    try:
        path = new_run_folder(RUNS, what) / "diverged.npz"
        with path.open("wb") as file:
            np.savez(file, **crash_repro.to_arrays())
    except (OSError, UsageError) as exc:
        return f"its episode could not be kept: {exc}"
    return f"run the episode again, {len(crash_repro.actions)} steps: hil replay {path}"


def rerun_episode(path: Path, as_json: bool) -> int:
    """Runs the episode again and shows its last steps; exit status 0 when it ends as it did.

    Raises:
        RecordingError, UsageError: the file holds no such episode.
    """
    crash_repro = load(path)
    result = rerun(crash_repro)
    repeats = result.error == crash_repro.message
    if as_json:
        print_json(
            {
                "episode": str(path),
                "environment": crash_repro.environment,
                "steps": len(crash_repro.actions),
                "options": crash_repro.options,
                "robot": result.robot,
                "recorded_error": crash_repro.message,
                "error": result.error,
                "repeats": repeats,
                "moments": [moment._asdict() for moment in result.moments[-SHOWN:]],
            }
        )
        return 0 if repeats else 1
    shown = result.moments[-SHOWN:]
    table = make_table(">step", *(f">{name}" for name in (shown[0].trace if shown else ())), ">action")
    for moment in shown:
        numbers = (f"{value:.4g}" for value in moment.trace.values())
        table.add_row(str(moment.step), *numbers, " ".join(f"{v:+.3f}" for v in moment.action))
    stdout.print(table)
    if result.robot:
        stdout.print(f"robot: {json.dumps(result.robot)}", soft_wrap=True)
    stdout.print(
        f"step {len(result.moments)} of {crash_repro.environment}: {result.error or 'nothing went wrong'}",
        soft_wrap=True,
    )
    if not repeats:
        stdout.print(f"recorded: {crash_repro.message}", soft_wrap=True)
    return 0 if repeats else 1
