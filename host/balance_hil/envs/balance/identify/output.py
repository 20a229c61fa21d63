"""What an identification leaves behind: options for training, and a picture of the residuals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from balance_hil.envs.balance.identify.fit import Identification
from balance_hil.envs.balance.identify.log import Run
from balance_hil.errors import UsageError
from balance_hil.files import require_picture, write_atomically


def write_options(path: Path, result: Identification, log: str) -> None:
    """Writes the identified values as an options file, for training and evaluation. Raises UsageError."""
    lines = [
        f"# hil identify {log}: {result.samples} samples, residual {result.residual_rms_rad_s:.3g} rad/s RMS; 95 % intervals",
        "motor:",
    ]
    for p in result.parameters:
        comment = f"{p.low:.4g} to {p.high:.4g} {p.unit}" if p.determined else "not determined by this log"
        lines.append(f"  {'' if p.determined else '# '}{p.name}: {p.value:.4g}  # {comment}")
    if not any(p.determined for p in result.parameters):
        lines[1] = "# motor:"
    try:
        write_atomically(path, "\n".join(lines) + "\n")
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}", "choose another file: --output") from exc


def draw_residuals(path: Path, runs: Sequence[Run], result: Identification) -> None:
    """Draws measured and predicted speeds and their difference for every run. Raises UsageError, MissingExtraError."""
    require_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots(2, len(runs), sharex="col", sharey="row", squeeze=False, height_ratios=[2, 1])
    for column, (run, predicted) in enumerate(zip(runs, result.predicted_rad_s, strict=True)):
        speed, difference = axes[:, column]
        for wheel, (name, color) in enumerate((("left", "tab:blue"), ("right", "tab:orange"))):
            speed.plot(run.t_s, run.speed_rad_s[:, wheel], ".", color=color, markersize=2, alpha=0.5, label=f"{name}, measured")
            speed.plot(run.t_s, predicted[:, wheel], color="black", linewidth=0.8, label="model" if wheel else None)
            difference.plot(run.t_s, run.speed_rad_s[:, wheel] - predicted[:, wheel], color=color, linewidth=0.6)
        speed.set_title(f"load {run.load_kg_m2:g} kg m² on each wheel", fontsize="medium")
        difference.set_xlabel("time, s")
        for axis in (speed, difference):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("wheel speed, rad/s")
    axes[1, 0].set_ylabel("measured - model, rad/s")
    axes[0, 0].legend(fontsize="small", loc="lower left")
    try:
        figure.savefig(path, dpi=110)
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}", "choose another file: --plot") from exc
