"""``hil identify``: the motor's parameters from a step response, and with ``--record`` the step response itself, simulated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from balance_hil.cli.console import make_table, print_json, print_warning, say, stderr, stdout
from balance_hil.cli.params import JSON
from balance_hil.envs.balance.identify import Identification, identify, read_log, record, write_log
from balance_hil.envs.balance.identify.output import draw_residuals, write_options
from balance_hil.envs.balance.identify.record import DEFAULT_LOADS_KG_M2
from balance_hil.envs.balance.options import load_options
from balance_hil.errors import UsageError

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("log", type=_PATH, metavar="LOG.csv")
@click.option("-o", "--output", type=_PATH, metavar="FILE.yaml", help="Write the values as options for training and evaluation.")
@click.option("--plot", type=_PATH, metavar="FILE.png", help="Draw measured and predicted speeds and the residuals.")
@click.option("--record", "record_one", is_flag=True,
              help="First simulate a step response on the motor stand and write it to LOG.csv.")  # fmt: skip
@click.option("--options", type=_PATH, metavar="FILE.yaml", help="With --record: motor and sensor noise of the simulated robot.")
@click.option("--load", "loads", type=float, multiple=True,
              help="With --record: inertia of a disc on each wheel, kg m2; one run for each.  [default: 0 and 1e-4]")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), help="With --record: seed of the noise and of options with ranges.  [default: 0]"
)
@JSON
def command(
    log: Path,
    output: Path | None,
    plot: Path | None,
    record_one: bool,
    options: Path | None,
    loads: tuple[float, ...],
    seed: int | None,
    as_json: bool,
) -> None:
    """Fit armature, damping, torque limit and gain of the wheel servos to a step response in LOG.csv.

    Record one on a real robot (see docs/environments.md) or in simulation with --record. Intervals are 95 %.
    """
    if record_one:
        write_log(log, record(load_options(options) if options else None, loads or DEFAULT_LOADS_KG_M2, seed or 0))
        say(f"wrote {log}")
    elif options or loads or seed is not None:
        raise UsageError("--options, --load and --seed belong to --record", "add --record, or leave them out")
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
        say(f"wrote {output}; use it: hil train ppo --options {output}")
    if plot:
        say(f"wrote {plot}")


def _table(result: Identification) -> Table:
    table = make_table("parameter", ">value", ">95 % interval", ">model", "unit")
    for p in result.parameters:
        table.add_row(p.name, f"{p.value:.4g}", f"{p.low:.4g} to {p.high:.4g}", f"{p.model:g}", p.unit)
    return table


def _document(log: Path, result: Identification) -> dict[str, object]:
    return {
        "log": str(log),
        "samples": result.samples,
        "residual_rms_rad_s": result.residual_rms_rad_s,
        "parameters": [{**asdict(p), "determined": p.determined} for p in result.parameters],
    }
