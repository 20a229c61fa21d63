"""Files and names: whole files or none, YAML from outside, a folder for each run, and what a misspelled name may have meant."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from balance_hil.errors import ConfigError, UsageError

MAX_YAML_BYTES = 1 << 20
MAX_JSON_DEPTH = 100
_STAGING = ".staging"


# A string, closed or not, or a bracket outside of one.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def did_you_mean(name: object, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown name: ", did you mean 'X'?" with the known one most like it, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {prefix + near[0]!r}?" if near else ""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write a file to, which then takes the place of ``path``; whatever fails, that stays as it was."""
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A new empty folder beside ``target``, on the same file system, that is gone afterwards.

    It is locked, and the kernel releases the lock when its owner dies: folders of dead owners beside ``target`` are removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(target.parent, wait=True):  # no other process may see the folder before it is locked
            for left in target.parent.glob(f".*{_STAGING}"):
                with _locked(left) as is_stale:
                    if is_stale:
                        shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=_STAGING, dir=target.parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder))
        yield folder


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Locks a folder; whether that succeeded."""
    if sys.platform == "win32":  # it cannot lock a folder
        yield False
        return
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:  # another process holds it, or the file system has no locks
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is complete or, whatever happens meanwhile, as it was before. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def parse_json(text: str | bytes) -> Any:
    """JSON from outside: not nested so deeply that reading it overflows the stack, whatever the recursion limit is.

    Raises:
        ValueError: not JSON, not UTF-8, or nested more than MAX_JSON_DEPTH times.
    """
    if isinstance(text, bytes):
        text = text.decode()
    depth = deepest = 0
    few = text.count("[") + text.count("{") <= MAX_JSON_DEPTH
    for match in () if few else _BRACKETS.finditer(text):
        if match[0][0] != '"':
            depth += 1 if match[0] in "[{" else -1
            deepest = max(deepest, depth)
            if deepest > MAX_JSON_DEPTH:
                raise ValueError(f"nested more than {MAX_JSON_DEPTH} times")
    return json.loads(text)


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


def read_yaml(
    path: Path, hint: str = "keys and values: docs/environments.md", tags: Mapping[str, Callable[[Any, Any], Any]] | None = None
) -> dict[str, Any]:
    """The table of keys and values in a YAML file; an empty file is an empty table. Runs no code that the file names.

    Args:
        path: a file of at most MAX_YAML_BYTES.
        hint: of the errors about what is in the file.
        tags: constructors ``(loader, node) -> value`` for tags beside those of plain YAML.

    Raises:
        ConfigError: no such file, too large, not YAML, or no table.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    for tag, constructor in (tags or {}).items():
        Loader.add_constructor(tag, constructor)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc}", "check the path") from exc
    if len(data) > MAX_YAML_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_YAML_BYTES >> 20} MiB", hint)
    try:
        values = Loader(data.decode("utf-8-sig")).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, IndexError) as exc:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(exc).split())}", hint) from exc
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a table of keys and values", hint)
    return values
