"""Files and names: whole files or none, YAML from outside, a folder for each run, and what a misspelled name may have meant."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from balance_hil.errors import ConfigError, UsageError, require


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """A hint: "did you mean X?" with the name in ``known`` that is most like ``name``; ``otherwise`` where none is like it."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is complete or, whatever happens meanwhile, as it was before. Raises OSError."""
    data = content.encode() if isinstance(content, str) else content
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor has no path
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(partial).chmod(0o666 & ~umask)  # mkstemp's files are for their owner alone
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


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


def read_yaml(path: Path) -> dict[str, Any]:
    """The table of keys and values in a YAML file; an empty file is an empty table.

    Raises:
        ConfigError: no such file, not YAML, or no table.
        MissingExtraError: PyYAML is not installed.
    """
    require("yaml", "train")
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read {path}: {exc}", "check the path") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(exc).split())}", "keys and values: docs/environments.md") from exc
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a table of keys and values", "keys and values: docs/environments.md")
    return values
