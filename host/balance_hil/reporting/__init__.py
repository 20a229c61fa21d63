"""Shows recordings and comparisons as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from balance_hil.errors import HarnessError
from balance_hil.files import write_atomically
from balance_hil.history import read
from balance_hil.reporting.collect import Sources, read_sources
from balance_hil.reporting.frames import film_strips
from balance_hil.reporting.index import render_index
from balance_hil.reporting.page import render_page


def write_page(paths: Sequence[Path], target: Path, *, frames: bool | None = None) -> Sources:
    """Writes the page about recordings, comparisons and folders of them; returns what was read.

    Args:
        paths: of the files and folders.
        target: the HTML file.
        frames: whether pictures of the plant are made; None: unless an environment's module would have to be imported.

    Raises:
        HarnessError: nothing can be read, or ``target`` cannot be written.
    """
    sources = read_sources(paths)
    _write(target, render_page(sources, film_strips({run.label: run.recording for run in sources.runs}, frames)))
    return sources


def write_index(database: Path, target: Path, *, last: int) -> None:
    """Writes the page about the ``last`` results of each series in a results database.

    Raises:
        HistoryError: there is no database, or it is damaged.
        HarnessError: ``target`` cannot be written.
    """
    _write(target, render_index(read(database, last=last), str(database)))


def _write(target: Path, page: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, page.encode(errors="replace"))
    except OSError as exc:
        raise HarnessError(f"cannot write {target}: {exc.strerror}", "choose another place: --output FILE.html") from exc
