"""``hil recordings``: what was recorded, and repairing what was cut off."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.table import Table

from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.recording.folder import list_recordings, repair


@click.command(name="recordings")
@click.argument("arguments", nargs=-1, metavar="[FOLDER] | repair FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: docs/replay.md.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """List the recordings in FOLDER, by default recordings/: who ran what, how it ended, and whether the file is whole.

    repair FILE writes what is left of a recording that was cut off to a whole file beside it, and prints its name. FILE stays.
    """
    if arguments[:1] == ("repair",):
        if len(arguments) != 2:
            raise click.UsageError("repair needs one FILE: hil recordings repair FILE")
        target = repair(Path(arguments[1]))
        if as_json:
            print_json({"schema": "balance_hil/repair@2", "recording": arguments[1], "repaired": str(target)})
        else:
            stdout.print(str(target), soft_wrap=True)
        return
    if len(arguments) > 1:
        raise click.UsageError("give one FOLDER, or repair FILE")
    folder = Path(*arguments) if arguments else Path("recordings")
    entries = list_recordings(folder)
    if as_json:
        print_json({"schema": "balance_hil/recordings@2", "folder": str(folder), "recordings": [asdict(e) for e in entries]})
        return
    if not entries:
        stderr.print(f"no recordings in {folder}", soft_wrap=True)
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("recording", "bundle", "board", "environment", "clock"):
        table.add_column(heading, overflow="fold")
    table.add_column("steps", justify="right")
    table.add_column("ended", overflow="fold")
    for entry in entries:
        ended = entry.error or (entry.ended if entry.whole or entry.ended == "cut off" else f"{entry.ended}, its index cut off")
        cells = (Path(entry.file).name, entry.bundle, entry.board, entry.environment, entry.clock, f"{entry.steps}", ended)
        table.add_row(*cells, style="" if entry.whole else "yellow")
    stdout.print(table)
