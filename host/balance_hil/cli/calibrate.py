"""``hil calibrate``: the step response that ``hil identify`` reads, recorded in simulation."""

from __future__ import annotations

from pathlib import Path

import click

from balance_hil.cli.console import stderr
from balance_hil.envs.balance.identify import record, write_log
from balance_hil.envs.balance.identify.record import DEFAULT_LOADS_KG_M2
from balance_hil.envs.balance.options import load_options

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("log", type=_PATH, metavar="LOG.csv")
@click.option("--options", type=_PATH, metavar="FILE.yaml", help="Motor and sensor noise of the simulated robot.")
@click.option(
    "--load",
    "loads",
    type=float,
    multiple=True,
    default=DEFAULT_LOADS_KG_M2,
    show_default=True,
    help="Inertia of a disc on each wheel, kg m2; repeat it, one run each.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of noise, and of options with ranges.")
def command(log: Path, options: Path | None, loads: tuple[float, ...], seed: int) -> None:
    """Put the simulated robot on a stand (balance/MotorStand-v0), step its wheel servos and write what is measured to LOG.csv.

    The same columns recorded on a real robot are what hil identify reads: see docs/environments.md.
    """
    runs = record(load_options(options) if options else None, loads, seed)
    write_log(log, runs)
    rows = sum(len(run.t_s) for run in runs)
    stderr.print(f"wrote {rows} samples of {len(runs)} runs to {log}; next: hil identify {log}", soft_wrap=True)
