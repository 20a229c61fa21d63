"""``hil recordings``: list recordings and repair truncated ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from balance_hil.boards.channel import printable
from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.recording.folder import Entry, list_recordings, repair
from balance_hil.recording.reader import CUT_OFF


@click.command(name="recordings")
@click.argument("arguments", nargs=-1, metavar="[FOLDER] | repair FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: docs/replay.md.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """List the recordings in FOLDER, by default recordings/: policy, board, result, and whether the file is complete.

    repair FILE writes the readable part of a truncated recording to a new file next to it and prints its name. FILE is kept.
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
    for entry in entries:
        stdout.print(printable(Path(entry.file).name), style="bold" if entry.whole else "bold yellow", soft_wrap=True)
        stdout.print(f"    {printable(entry.error or _facts(entry))}", soft_wrap=True)


def _facts(entry: Entry) -> str:
    ended = entry.ended if entry.whole or entry.ended == CUT_OFF else f"{entry.ended}, its index cut off"
    facts = (ended, f"{entry.steps} steps", entry.environment, f"{entry.clock} on {entry.board}", f"bundle {entry.bundle}")
    return " · ".join(facts)
