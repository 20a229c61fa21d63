"""``hil report``: recordings and comparisons as one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from balance_hil.cli.console import print_error, stderr, stdout
from balance_hil.errors import UsageError

SHOWN = 50  # results of each series on the page about them
BROKEN = 3  # exit status: something that was named could not be read


@click.command(name="report")
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path), metavar="RECORDING... | COMPARISON.json | FOLDER")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.html",
    help="The page. Default: beside a single recording, else report.html in FOLDER or here.",
)  # fmt: skip
@click.option(
    "--frames/--no-frames", default=None,
    help="Pictures of the plant. Default: yes, unless its environment is in a module that would have to be imported.",
)  # fmt: skip
@click.option("--history", is_flag=True, help="Instead: a page about the results over time; default: index.html here.")
def command(sources: tuple[Path, ...], output: Path | None, frames: bool | None, history: bool) -> None:
    """Make one self-contained HTML page of recordings, side by side, and of comparisons (hil compare --json).

    The page opens from disk and needs no network: verdict, metrics and targets, curves over time, latency with the control
    period, faults, int8 ranges, differences by cause, identity, and commands to repeat it.

    A file that cannot be read is named on the page; the exit status is then 3.

    With --history: boards, last verdicts, trends and flaky tests, from the database that hil history shows.
    """
    if history:
        _index(sources, output or Path("index.html"))
        return
    if not sources:
        raise UsageError("name what the page is about", "for example: hil report recordings/, or hil report --history")
    from balance_hil.reporting import write_page

    target = output or _beside(sources)
    found = write_page(sources, target, frames=frames)
    for path, error in found.unreadable:
        print_error(f"{path}: {error.message}", error.hint)
    verdict = found.verdict
    stderr.print(verdict.line, style="bold green" if verdict.good else "bold red", soft_wrap=True)
    stdout.print(str(target), soft_wrap=True)
    sys.exit(BROKEN if found.unreadable else 0)


def _index(sources: tuple[Path, ...], target: Path) -> None:
    from balance_hil.history import required_database
    from balance_hil.reporting import write_index

    if sources:
        raise UsageError("--history and recordings exclude each other", "make two pages")
    write_index(required_database(), target, last=SHOWN)
    stdout.print(str(target), soft_wrap=True)


def _beside(sources: tuple[Path, ...]) -> Path:
    only = sources[0]
    if len(sources) > 1:
        return Path("report.html")
    return only / "report.html" if only.is_dir() else only.with_suffix(".html")
