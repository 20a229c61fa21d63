"""``hil doctor``: check the installation."""

from __future__ import annotations

import sys

import click
from rich.table import Table
from rich.text import Text

from balance_hil.cli.console import make_table, print_json, stdout
from balance_hil.cli.params import JSON
from balance_hil.doctor import Check, is_healthy, run_checks

STYLES = {"ok": "green", "missing": "bold red", "optional": "yellow"}


@click.command()
@JSON
def command(as_json: bool) -> None:
    """Check the installation and list what is missing. Exit status 0 when hil run can work, 3 when it cannot."""
    checks = run_checks()
    healthy = is_healthy(checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [check.to_dict() for check in checks]})
    else:
        stdout.print(_table(checks))
        stdout.print("everything that hil run needs is there" if healthy else "hil run cannot work yet: install what is missing")
    sys.exit(0 if healthy else 3)


def _table(checks: list[Check]) -> Table:
    table = make_table("check", "state", "found", "fix")
    for check in checks:
        table.add_row(check.name, Text(check.state, STYLES[check.state]), check.found, check.hint)
    return table
