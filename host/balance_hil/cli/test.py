"""``hil test``: the HIL suite for several policies on several boards."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from balance_hil.cli.console import make_table, print_verdict, say, stdout
from balance_hil.cli.params import BOARDS, POLICY, WAIT, campaign_options
from balance_hil.cli.progress import CampaignBar
from balance_hil.cli.remember import HISTORY
from balance_hil.errors import UsageError
from balance_hil.farm.campaign import Campaign
from balance_hil.files import write_atomically
from balance_hil.metrics import Verdict
from balance_hil.verifying.suites import merged, run_suites


@click.command(name="test")
@click.argument("policies", metavar="POLICY...", nargs=-1, required=True, type=POLICY)
@BOARDS
@WAIT
@click.option("--junitxml", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write all results as JUnit.")
@click.option("--pytest", "arguments", default="", metavar="'ARGUMENTS'", help="More of pytest's: '-k golden --hil-episodes 2'.")
@campaign_options
@HISTORY
def command(
    policies: tuple[Path, ...], boards: tuple[str, ...], wait_s: float, junitxml: Path | None, arguments: str, campaign: Campaign
) -> None:  # fmt: skip
    """Run the HIL suite for each POLICY on each board, a process per pair, as many at once as there are cores.

    Exit status 0 when no test failed, 1 otherwise.
    """
    try:
        words = shlex.split(arguments)
    except ValueError as exc:
        raise UsageError(f"--pytest {arguments!r} cannot be read: {exc}", "quote it as in a shell: --pytest '-k golden'") from exc
    if junitxml is not None and not junitxml.parent.is_dir():
        raise UsageError(f"there is no folder {junitxml.parent}", f"make it: mkdir -p {junitxml.parent}")
    with CampaignBar() as bar:

        def show(done: float, what: str) -> None:
            bar(done, what)
            bar.console.print(what, highlight=False, markup=False)

        results = run_suites(policies, boards, words, wait_s, show, campaign)
    if junitxml is not None:
        write_atomically(junitxml, merged(results))
        say(f"wrote {junitxml}")
    table = make_table("policy", "board", ">passed", ">failed", ">skipped")
    for result in results:
        counts = (str(result.count(outcome)) for outcome in ("passed", "failed", "skipped"))
        table.add_row(result.bundle, result.board, *counts, style="" if result.verdict.good else "red")
    stdout.print(table)
    for result in results:
        for case in result.cases:
            if case.outcome == "failed":
                stdout.print(f"{result.bundle} on {result.board}: {case.test}: {case.message}", markup=False, soft_wrap=True)
    verdict = Verdict(tuple(reason for result in results for reason in result.verdict.reasons))
    print_verdict(verdict, f"{sum(result.count('passed') for result in results)} tests passed")
    sys.exit(0 if verdict.good else 1)
