"""Folders of their own for what a training or an evaluation leaves behind."""

from __future__ import annotations

from pathlib import Path

from balance_hil.errors import UsageError


def new_run_folder(runs: Path, name: str) -> Path:
    """Makes ``runs/<name>_<n>`` with the first free n, so that no two runs share a TensorBoard curve or a checkpoint.

    Raises:
        UsageError: a file is in the way, or the folder cannot be made.
    """
    for n in range(1, 100_000):
        folder = runs / f"{name}_{n}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir():
                continue
            raise UsageError(f"{folder} is in the way: it is not a folder", "remove it, or choose another --runs") from None
        except OSError as exc:
            raise UsageError(f"cannot make the folder {folder}: {exc.strerror}", "choose another one: --runs") from exc
        return folder
    raise UsageError(f"{runs} is full", "remove old runs")
