"""``hil report``: a recording as a page or a picture."""

from __future__ import annotations

from pathlib import Path

import click

from balance_hil.cli.console import stderr, stdout, warn_if_cut_off
from balance_hil.errors import HarnessError, UsageError, require
from balance_hil.files import write_atomically
from balance_hil.recording import read_recording


@click.command(name="report")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.html", help="the page; default: beside the recording"
)
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE.svg|png", help="draw the three curves alone, and no page"
)
@click.option("--episode", type=click.IntRange(min=0), metavar="N", help="only this episode in the picture, counted from 0")
def command(recording: Path, output: Path | None, picture: Path | None, episode: int | None) -> None:
    """Render RECORDING as one self-contained HTML page, or as a picture.

    The page needs no network and no script: identity, summary, plant, action and round trip over time, histogram, faults.
    The page and the picture are legible on light and on dark backgrounds.
    """
    if picture is None and episode is not None:
        raise click.UsageError("--episode belongs to a picture: add --picture FILE.svg")
    if picture is not None and output is not None:
        raise click.UsageError("give --picture or --output, not both")
    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise UsageError(f"cannot draw a picture as {picture.name}", "name it .svg or .png")
    require("matplotlib", "report")
    require("jinja2", "report")
    data = read_recording(recording)
    warn_if_cut_off(data.missing, recording)
    if picture is not None:
        from balance_hil.reporting.figures import draw_run, to_png, to_svg

        figure = draw_run(data, episode)
        content = to_png(figure) if picture.suffix == ".png" else to_svg(figure, picture.stem).encode()
    else:
        from balance_hil.reporting.page import render_page

        content = render_page(data, recording.name).encode()
    target = picture or output or recording.with_suffix(".html")
    _write(target, content)
    stderr.print(f"{len(data)} steps of {recording.name} drawn", soft_wrap=True)
    stdout.print(str(target), soft_wrap=True)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as exc:
        raise HarnessError(f"cannot write {path}: {exc.strerror}", "choose another place: --output FILE.html") from exc
