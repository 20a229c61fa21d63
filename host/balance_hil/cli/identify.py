"""``hil identify``: the motor's parameters from a step response."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from balance_hil.cli.console import print_json, print_warning, stderr, stdout
from balance_hil.envs.balance.identify import Identification, identify, read_log
from balance_hil.envs.balance.identify.output import draw_residuals, write_options

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("log", type=_PATH, metavar="LOG.csv")
@click.option("-o", "--output", type=_PATH, metavar="FILE.yaml", help="Write the values as options for training and evaluation.")
@click.option("--plot", type=_PATH, metavar="FILE.png", help="Draw measured and predicted speeds and the residuals.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(log: Path, output: Path | None, plot: Path | None, as_json: bool) -> None:
    """Fit armature, damping, torque limit and gain of the wheel servos to a step response in LOG.csv.

    Record one with hil calibrate, or on a real robot: docs/environments.md says how. Intervals are 95 %.
    """
    runs = read_log(log)
    with stderr.status("fitting"):
        result = identify(runs)
    if output:
        write_options(output, result, str(log))
    if plot:
        draw_residuals(plot, runs, result)
    if as_json:
        print_json(_document(log, result))
    else:
        stdout.print(_table(result))
        stdout.print(f"{result.samples} measured speeds, residual {result.residual_rms_rad_s:.3g} rad/s RMS")
    for parameter in result.parameters:
        if not parameter.determined:
            print_warning(f"this log does not determine {parameter.name}")
    if output:
        stderr.print(f"wrote {output}; use it: hil evaluate models/ppo --options {output}", soft_wrap=True)
    if plot:
        stderr.print(f"wrote {plot}", soft_wrap=True)


def _table(result: Identification) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("parameter")
    for heading in ("value", "95 % interval", "model"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for p in result.parameters:
        table.add_row(p.name, f"{p.value:.4g}", f"{p.low:.4g} to {p.high:.4g}", f"{p.model:g}", p.unit)
    return table


def _document(log: Path, result: Identification) -> dict[str, object]:
    return {
        "log": str(log),
        "samples": result.samples,
        "residual_rms_rad_s": result.residual_rms_rad_s,
        "parameters": [
            {
                "name": p.name,
                "unit": p.unit,
                "value": p.value,
                "low": p.low,
                "high": p.high,
                "model": p.model,
                "determined": p.determined,
            }
            for p in result.parameters
        ],
    }
