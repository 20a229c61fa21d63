"""Files and names: whole files or none, YAML from outside, a folder for each run, and what a misspelled name may have meant."""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balance_hil.errors import ConfigError, HarnessError, UsageError, require
from balance_hil.interrupt import entered

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_YAML_BYTES = 128 << 10  # PyYAML takes a second for 50 KiB of the slowest kind
MAX_YAML_VALUES = 100_000  # with every alias written out
MAX_DEPTH = 100
MAX_NPZ_BYTES = 64 << 20  # decompressed
PICTURES = (".svg", ".png", ".pdf")
_STAGING = ".staging"


# A string, closed or not, or anything else but brackets.
_NO_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^\[\]{}"]+', re.DOTALL)
_DEEPER = {"[": 1, "{": 1, "]": -1, "}": -1}


def did_you_mean(name: object, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown name: ", did you mean 'X'?" with the known one most like it, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {prefix + near[0]!r}?" if near else ""


def require_known(
    name: object, known: Iterable[str], what: str, where: str = "", error: type[HarnessError] = ConfigError, prefix: str = ""
) -> None:
    """Raises ``error`` unless ``name`` is one of ``known``; ``what`` is its kind, ``prefix`` goes before each name."""
    if name not in (known := list(known)):
        names = [str(each) for each in known]  # a name from YAML may be a number, a date, bytes
        raise error(
            f"unknown {what} {prefix + str(name)!r}{where}" + did_you_mean(name, names, prefix),
            f"known are: {', '.join(prefix + each for each in names)}",
        )


def require_picture(path: Path) -> None:
    """Raises UsageError or MissingExtraError unless Matplotlib can draw a picture there."""
    require("matplotlib", "report")
    if path.suffix.lower() not in PICTURES:
        raise UsageError(f"cannot draw a picture as {path.name}", f"end its name in {', '.join(PICTURES)}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", f"make it: mkdir -p {path.parent}")


def save_figure(figure: Any, path: Path) -> None:
    """Writes a Matplotlib figure; the format follows from the suffix. Without a date: equal figures, equal files."""
    suffix = path.suffix.lower()
    date = {"Date": None} if suffix == ".svg" else {"CreationDate": None} if suffix == ".pdf" else {}
    with replacing(path) as partial:
        figure.savefig(partial, format=suffix[1:], dpi=150, metadata=date)


def refuse_special(path: Path) -> None:
    """Raises OSError for what exists and is not a regular file: to take the place of /dev/null would break the computer."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "exists and is not a regular file", str(path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write a file to, which then takes the place of ``path``; whatever fails, that stays as it was.

    Raises:
        OSError: ``path`` cannot be replaced, or is a device, a pipe or a folder.
    """
    refuse_special(path)
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
        with locked(target.parent, wait=True):  # no other process may see the folder before it is locked
            for left in target.parent.glob(f".*{_STAGING}"):
                with locked(left) as is_stale:
                    if is_stale:
                        shutil.rmtree(left, ignore_errors=True)
            made = entered(
                lambda: tempfile.TemporaryDirectory(_STAGING, f".{target.name}-", target.parent, ignore_cleanup_errors=True)
            )
            folder = Path(stack.enter_context(made))
            stack.enter_context(locked(folder))
        yield folder


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
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


def is_locked(path: Path) -> bool:
    """Whether a process holds a file's lock; False where the system cannot tell. Any user may have made the file."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is complete or, whatever happens meanwhile, as it was before. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def parse_json(text: str | bytes, max_values: int | None = None) -> Any:
    """JSON from outside: not nested so deeply that reading it overflows the stack, whatever the recursion limit is.

    Raises:
        ValueError: not JSON, not UTF-8, nested more than MAX_DEPTH times, or of more than ``max_values`` values.
    """
    if isinstance(text, bytes):
        text = text.decode()
    if max_values is not None and sum(map(text.count, ",[{")) > max_values:
        raise ValueError(f"more than {max_values} values")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        depths = itertools.accumulate(map(_DEEPER.__getitem__, _NO_BRACKETS.sub("", text)))
        if max(depths, default=0) > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} times")
    return json.loads(text)


def read_limited(path: Path, limit: int) -> bytes:
    """Content of a file of at most ``limit`` bytes. Raises ValueError for a larger one, and OSError."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return content


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` from outside, by name, without pickled objects.

    Raises:
        ValueError: damaged, no .npz file, or decompressed larger than MAX_NPZ_BYTES.
        OSError: it cannot be read.
    """
    import numpy as np

    arrays, left = {}, MAX_NPZ_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as part:
                    content = part.read(left + 1)  # the size in the directory may be wrong
                left -= len(content)
                if left < 0:
                    raise ValueError(f"it is larger than {MAX_NPZ_BYTES >> 20} MiB")
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError):
        raise
    except Exception as exc:  # zipfile, zlib and numpy share no base for what is damaged
        raise ValueError(str(exc) or type(exc).__name__) from exc
    return arrays


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
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc}", "check the path") from exc
    return parse_yaml(data, str(path), hint, tags)


def parse_yaml(data: bytes, what: str, hint: str, tags: Mapping[str, Callable[[Any, Any], Any]] | None = None) -> dict[str, Any]:
    """The table in a YAML text; ``what`` names the text in errors. See ``read_yaml``."""
    import yaml

    class Loader(yaml.SafeLoader):
        def fetch_flow_collection_start(self, *token: Any) -> None:
            if self.flow_level >= MAX_DEPTH:  # the time for each token grows with the depth
                raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} times")
            super().fetch_flow_collection_start(*token)

        def construct_yaml_int(self, node: Any) -> Any:
            value = super().construct_yaml_int(node)
            if abs(value) >= 2**63:  # Python refuses to print thousands of digits
                raise ValueError("it holds an integer of more than 64 bits")
            return value

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)

    for tag, constructor in (tags or {}).items():
        Loader.add_constructor(tag, constructor)
    if len(data) > MAX_YAML_BYTES:
        raise ConfigError(f"{what} is larger than {MAX_YAML_BYTES >> 10} KiB", hint)
    try:
        values = Loader(data.decode("utf-8-sig")).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, IndexError) as exc:
        raise ConfigError(f"{what} is not YAML: {' '.join(str(exc).split())}", hint) from exc
    if values is None:
        return {}
    if _written_out(values, {}) > MAX_YAML_VALUES:
        raise ConfigError(f"the aliases of {what} stand for more than {MAX_YAML_VALUES} values, or for themselves", hint)
    if not isinstance(values, dict):
        raise ConfigError(f"{what} is not a table of keys and values", hint)
    return values


def _written_out(value: Any, counts: dict[int, int]) -> int:
    """How many values a value from YAML has with every alias written out; ``counts`` is of those that were counted, by id."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counts:
        counts[id(value)] = MAX_YAML_VALUES + 1  # until it is known: an alias inside of it
        inner = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_written_out(each, counts) for each in inner)
    return counts[id(value)]
