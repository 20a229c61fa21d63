"""``hil recordings``: list recordings, repair truncated ones, and give them to other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from balance_hil.boards.channel import printable
from balance_hil.cli.console import print_json, print_warning, say, stdout
from balance_hil.cli.params import JSON
from balance_hil.errors import HarnessError
from balance_hil.files import write_atomically
from balance_hil.recording.export import FORMATS, SUFFIXES, TableFormat, export_table
from balance_hil.recording.folder import Entry, list_recordings, read_layout, repair
from balance_hil.recording.reader import CUT_OFF, read_recording

_FILE = click.Path(path_type=Path)


class _ListByDefault(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(name="recordings", cls=_ListByDefault, subcommand_metavar="[FOLDER] | COMMAND FILE")
def command() -> None:
    """List the recordings in FOLDER, by default recordings/, or do something with one of them."""


@command.command(name="list")
@click.argument("folder", type=_FILE, default="recordings")
@JSON
def list_command(folder: Path, as_json: bool) -> None:
    """The recordings in FOLDER: policy, board, result, and whether the file is complete."""
    entries = list_recordings(folder)
    if as_json:
        print_json({"schema": "balance_hil/recordings@2", "folder": str(folder), "recordings": [asdict(e) for e in entries]})
        return
    if not entries:
        say(f"no recordings in {folder}")
        return
    for entry in entries:
        stdout.print(printable(Path(entry.file).name), style="bold" if entry.whole else "bold yellow", soft_wrap=True)
        stdout.print(f"    {printable(entry.error or _facts(entry))}", soft_wrap=True)


@command.command(name="repair")
@click.argument("file", type=_FILE)
@JSON
def repair_command(file: Path, as_json: bool) -> None:
    """Write the readable part of a truncated recording to a new file next to it, and print its name. FILE is kept."""
    target = repair(file)
    if as_json:
        print_json({"schema": "balance_hil/repair@2", "recording": str(file), "repaired": str(target)})
    else:
        stdout.print(str(target), soft_wrap=True)


@command.command(name="export")
@click.argument("file", type=_FILE)
@click.option("--to", type=click.Choice(FORMATS), required=True, help="Format. All but CSV need the extra parquet.")
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Default: beside the recording. An existing file is replaced.")
def export_command(file: Path, to: TableFormat, output: Path | None) -> None:
    """Write the control steps as a table, a row each, and print its name. Rerun plots the MCAP file with Protobuf messages.

    Of an incomplete recording it has what is readable; what is missing is said on stderr.
    """
    recording = read_recording(file)
    if recording.missing:
        print_warning(f"{file}: {recording.missing}")
    target = output or file.with_suffix(SUFFIXES[to])
    export_table(recording, target, to)
    stdout.print(str(target), soft_wrap=True)


@command.command(name="layout")
@click.argument("file", type=_FILE)
@click.option("-o", "--output", type=_FILE, metavar="FILE.json", help="Default: print it.")
def layout_command(file: Path, output: Path | None) -> None:
    """The Foxglove layout of a recording: scene, log and plots of its signals. In Foxglove: Layouts, Import from file."""
    text = json.dumps(read_layout(file), indent=1)
    if output is None:
        print(text)
        return
    try:
        write_atomically(output, text + "\n")
    except OSError as exc:
        raise HarnessError(f"cannot write {output}: {exc.strerror}", "choose another place: --output FILE.json") from exc
    stdout.print(str(output), soft_wrap=True)


def _facts(entry: Entry) -> str:
    ended = entry.ended if entry.whole or entry.ended == CUT_OFF else f"{entry.ended}, its index cut off"
    facts = (ended, f"{entry.steps} steps", entry.environment, f"{entry.clock} on {entry.board}", f"bundle {entry.bundle}")
    return " · ".join(facts)
