"""Builds the firmware with PlatformIO, when it is stale, without PlatformIO's registry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import filelock

from balance_hil import paths
from balance_hil.errors import FirmwareBuildError, FlashToolMissingError, require_tool
from balance_hil.files import replacing, staging_folder
from balance_hil.processes import run_group

PROJECT = paths.PROJECT
# What a build depends on. The identity of a firmware is the last commit that touched one of these.
SOURCES = ("firmware", "host/balance_hil/protocol/schema.toml", "platformio.ini")
_SUFFIXES = (".cpp", ".cc", ".c", ".h", ".py", ".json", ".toml", ".ini", ".ld")
_STAMP = "balance_hil.stamp"
_LAST_LINES = 12
UNUSED_S = 30 * 86_400.0  # after its last build the project folder of another version is deleted
_COMPLAINT = re.compile("error|undefined reference|will not fit", re.IGNORECASE)
_STEPS = ("Compiling ", "Archiving ", "Indexing ", "Linking ")  # a file may be called error_reporter

IMAGES = PROJECT / ".pio/images"  # firmware with a model in it, one file for each model
TFLM_LIBRARY = "HIL_TFLM_LIB"  # environment variable: the folder that holds the user's library of TensorFlow Lite Micro
# Folders of model.h files for models that come without one.
HEADERS = PROJECT / ".pio/headers" if paths.IS_CHECKOUT else paths.CACHE / "headers"
BUILD_TIMEOUT_S = 3600.0  # TensorFlow Lite Micro takes a quarter of an hour on two cores
ASK_TIMEOUT_S = 30.0  # for programs that only answer a question
PROGRESS_INTERVAL_S = 5.0
_LIBRARY_FILE = re.compile(r"TensorFlow Lite Micro: file \d+ of \d+")  # see firmware/platform/tflm_library.py
_NOT_IN_LIBRARY = re.compile(r"undefined reference to `tflite::Register_(\w+)\(")
_NO_NETWORK = re.compile("HTTPClientError|InternetConnectionError|UnknownPackageError")
_TOO_LARGE = re.compile(r"size \((?P<need>\d+) bytes\) is greater than maximum allowed \((?P<limit>\d+) bytes\)")  # PlatformIO
# Of GNU ld: a section does not begin in its region, or does not end there.
_OVERFLOW = re.compile(r"region `(?P<region>\w+)' overflowed by (?P<bytes>\d+) bytes")
_BEYOND = re.compile(r"address (?P<end>0x\w+) of \S+ section \S+ is not within region `(?P<region>\w+)'")
IMAGE_SUFFIXES = (".bin", ".hex", ".uf2")  # besides the ELF file
_CROSS_COMPILER = "arm-none-eabi-g++"
_CROSS_HEADER = "nano.specs"  # of newlib's small library, a Debian package of its own

Progress = Callable[[str], None]


@dataclass(frozen=True)
class OwnSources:
    """A board of a user's own: its TOML file, and the folder with its five functions."""

    board_file: Path
    hal: Path

    def identity(self) -> bytes:
        """Changes when the file or a source does."""
        files = [self.board_file, *(path for path in sorted(self.hal.rglob("*")) if path.suffix in _SUFFIXES)]
        return b"".join(str(path).encode() + path.read_bytes() for path in files)


def build_native(progress: Progress | None = None) -> Path:
    """Builds the native board's program if it is stale. Returns its path; see ``build`` for the errors."""
    return build("native", progress)


def build(environment: str, progress: Progress | None = None, *, product: str = "program") -> Path:
    """Builds one environment of platformio.ini if a source changed since its last build; otherwise takes milliseconds.

    Several processes may call it at once: one builds, the others wait.

    Args:
        environment: name of a PlatformIO environment.
        progress: receives a line before a build starts.
        product: what the environment makes: "program", or "program.elf" for a Cortex-M.

    Returns:
        The program.

    Raises:
        FirmwareBuildError: the sources are missing, or the build failed; the message carries the tool's last lines.
        FlashToolMissingError: PlatformIO, SCons or a compiler is not installed.
    """
    folder = PROJECT / ".pio/build" / environment
    program = folder / product
    if _is_fresh(folder, program):
        return program
    _check_tools()
    with build_lock(progress):
        if _is_fresh(folder, program):  # another process built it while this one waited
            return program
        if progress is not None:
            progress(f"building the firmware ({environment}): about ten seconds, once")
        fingerprint = _fingerprint()  # before the build: a source saved during it makes the next call build again
        prepare_platformio()
        _run_platformio(environment, {}, progress)
        (folder / _STAMP).write_text(fingerprint)
    return program


def build_image(
    environment: str,
    header: Path,
    progress: Progress | None = None,
    *,
    baud: int | None = None,
    own: OwnSources | None = None,
    arena_bytes: int = 0,
) -> Path:
    """Builds the firmware of one environment with a model compiled in, unless that very image is there and up to date.

    Several processes may call it at once: one builds, the others wait.

    Args:
        environment: name of a PlatformIO environment of a microcontroller.
        header: the model as ``model.h``.
        progress: receives lines before and while it builds.
        baud: rate of the firmware's port; None: the firmware's default.
        own: the sources of a board of the user's own, which the image is built with.
        arena_bytes: for the model's tensors; 0: the firmware's default.

    Returns:
        The image, an ELF file that stays as it is when another model is built. The linker's map and the files that flash tools
        take (``.bin``, ``.hex``, ``.uf2``) lie beside it.

    Raises:
        FirmwareBuildError, FlashToolMissingError: see ``build``, ``check_board_tools``.
    """
    what = header.read_bytes() + _library(environment) + (str(baud).encode() if baud else b"") + (own.identity() if own else b"")
    what += f"arena {arena_bytes}".encode() if arena_bytes else b""
    image = IMAGES / f"{environment}-{hashlib.sha256(what).hexdigest()[:12]}.elf"
    stamp = image.with_suffix(".stamp")
    if _is_stamped(image, stamp):
        return image
    _check_tools()
    check_board_tools(environment)
    with build_lock(progress):
        if _is_stamped(image, stamp):
            return image
        if progress is not None:
            library = " and TensorFlow Lite Micro, unless that is built: many minutes" if is_tflm(environment) else ""
            progress(f"building the firmware ({environment}): about ten seconds, once for each model{library}")
        fingerprint = _fingerprint()
        prepare_platformio()
        _run_platformio(environment, image_variables(header, baud, own, arena_bytes), progress)
        IMAGES.mkdir(exist_ok=True)
        stamp.unlink(missing_ok=True)
        folder = build_folder(environment) / environment
        name = next((name for name in ("firmware", "program") if (folder / f"{name}.elf").is_file()), "program")
        for suffix in (*IMAGE_SUFFIXES, ".map", ".elf"):
            image.with_suffix(suffix).unlink(missing_ok=True)
            if (built := folder / f"{name}{suffix}").is_file():
                with replacing(image.with_suffix(suffix)) as partial:
                    shutil.copyfile(built, partial)
        stamp.write_text(fingerprint)
    return image


def image_variables(header: Path, baud: int | None, own: OwnSources | None = None, arena_bytes: int = 0) -> dict[str, str]:
    """Environment variables by which PlatformIO builds an image with a model; see ``build_image``."""
    variables = {"HIL_MODEL": str(header.resolve().parent)} | ({"HIL_BAUD": str(baud)} if baud else {})
    variables |= {"HIL_MODEL_ARENA_BYTES": str(arena_bytes)} if arena_bytes else {}
    return variables | ({"HIL_BOARD_FILE": str(own.board_file)} if own else {})


def is_tflm(environment: str) -> bool:
    """Whether an environment of platformio.ini builds with TensorFlow Lite Micro."""
    return environment.endswith("_tflm")


def build_folder(environment: str) -> Path:
    """Where PlatformIO builds an environment.

    It wipes a folder whenever a variable that platformio.ini names has changed, so what depends on HIL_TFLM_LIB is built apart.
    """
    return PROJECT / ".pio" / ("build_tflm" if is_tflm(environment) else "build")


def _library(environment: str) -> bytes:
    """Identity of the user's library, for an environment that builds with it: changes when a file of it does."""
    if not is_tflm(environment):
        return b""
    folder = Path(os.environ.get(TFLM_LIBRARY, "")).resolve()
    files = [path for manifest in sorted(folder.glob("*/library.json")) for path in sorted(manifest.parent.rglob("*.*"))]
    return "\n".join([str(folder), *(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)]).encode()


def native_is_current() -> bool:
    """Whether the native board's program is built and up to date.

    Raises:
        FirmwareBuildError, FlashToolMissingError: it is not, and could not be built.
    """
    folder = PROJECT / ".pio/build/native"
    if _is_fresh(folder, folder / "program"):
        return True
    _check_tools()
    return False


def firmware_commit() -> str:
    """Last commit that touched the firmware: 12 hex digits, "+" appended with local changes; "unknown" outside a repository.

    Of an installed package it is that of the sources which its wheel was built from, or their hash.
    """
    if paths.SOURCES_COMMIT:
        return paths.SOURCES_COMMIT
    commit = _git("log", "-1", "--format=%H", "--", *SOURCES)[:12]
    if not commit:
        return "unknown"
    return commit + ("+" if _git("status", "--porcelain", "--", *SOURCES) else "")


def prepare_platformio() -> None:
    """Makes PlatformIO's folder ready for a build without its registry. Cheap when it is."""
    core = PROJECT / ".platformio"
    _drop_stale_platform_link(core / "platforms")
    _provide_scons(core / "packages/tool-scons")


def _is_fresh(folder: Path, program: Path) -> bool:
    return _is_stamped(program, folder / _STAMP)


def _is_stamped(program: Path, stamp: Path) -> bool:
    return program.exists() and stamp.exists() and stamp.read_text() == _fingerprint()


def _fingerprint() -> str:
    """Changes when a source or the firmware's identity does."""
    if paths.SOURCES_HASH:
        return paths.SOURCES_HASH
    if not (PROJECT / "platformio.ini").exists():
        raise FirmwareBuildError(f"the firmware's sources are not in {PROJECT}", "restore them: git restore .")
    digest = hashlib.sha256(firmware_commit().encode())
    for path in _source_files():
        status = os.stat(path)  # noqa: PTH116 - of hundreds, for each start of a board: a third of pathlib's time
        digest.update(f"{path.removeprefix(str(PROJECT))} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _source_files() -> Iterator[str]:
    for name in SOURCES:
        path = str(PROJECT / name)
        if os.path.isfile(path):  # noqa: PTH113 - a third of pathlib's time
            yield path
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(set(folders) - {"__pycache__"})
            yield from (f"{folder}/{file}" for file in sorted(files) if file.endswith(_SUFFIXES))


def _check_tools() -> None:
    for module, package in (("platformio", "platformio"), ("SCons", "scons")):
        if find_spec(module) is None:
            raise FlashToolMissingError(
                f"building the firmware needs the Python package {package!r}, which is not installed",
                f"install it: {paths.install_command('firmware')}",
            )
    require_tool("g++", "building the firmware", "g++")


def check_cross_tools() -> None:
    """Raises FlashToolMissingError unless the compiler for Cortex-M and its library are installed."""
    require_tool(_CROSS_COMPILER, "building for a Cortex-M", "gcc-arm-none-eabi")
    command = [_CROSS_COMPILER, f"-print-file-name={_CROSS_HEADER}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S).stdout.strip()
    if found in ("", _CROSS_HEADER):  # the compiler repeats a name that it does not find
        raise FlashToolMissingError(
            "building for a Cortex-M needs the library newlib, which is not installed",
            "install it: apt-get install libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib",
        )


def check_board_tools(environment: str) -> None:
    """Raises FlashToolMissingError where the compiler of an environment is not installed, before PlatformIO asks its registry.

    For the project's own platform that is Debian's compiler, for others their PlatformIO package.
    """
    platform = _platformio_option(environment, "platform")
    if platform.startswith("symlink:"):
        check_cross_tools()
    elif not (PROJECT / ".platformio/platforms" / platform).is_dir():
        raise FlashToolMissingError(
            f"building the firmware ({environment}) needs PlatformIO's platform {platform}, which is not installed",
            f"install it, from the network: {install_packages(environment)}",
        )


def install_packages(environment: str) -> str:
    """The command that installs what PlatformIO's registry has for an environment."""
    return f"pio pkg install --project-dir {PROJECT} -e {environment}"


def _platformio_option(environment: str, name: str) -> str:
    from platformio.project.config import ProjectConfig  # type: ignore[import-untyped]  # PlatformIO has no types

    project = PROJECT if (PROJECT / "platformio.ini").is_file() else paths.SHIPPED
    return str(ProjectConfig(str(project / "platformio.ini")).get(f"env:{environment}", name))


@contextlib.contextmanager
def build_lock(progress: Progress | None = None) -> Iterator[None]:
    """Held while PlatformIO works in its project folder: two at once would wipe each other's output.

    ``progress`` receives a line if another program builds.

    Raises:
        FirmwareBuildError: the folder cannot be made.
    """
    folder = PROJECT / ".pio"
    try:
        _provide_sources()
        folder.mkdir(exist_ok=True)
    except OSError as exc:
        raise FirmwareBuildError(
            f"the firmware cannot be built in {PROJECT}: {exc.strerror}",
            "make room or give write permission there; XDG_CACHE_HOME names another folder for caches",
        ) from exc
    lock = filelock.FileLock(folder / "build.lock")  # given back whatever happens to this process
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if progress is not None:
            progress("another command is building firmware here: waiting until it has finished")
        lock.acquire()
    try:
        (folder / "build.lock").touch()  # the time of the last build
        yield
    finally:
        lock.release()


def _provide_sources() -> None:
    """Copies the firmware's sources of an installed package to PlatformIO's project folder, unless they are there."""
    if PROJECT.exists():
        return
    for old in PROJECT.parent.glob("firmware-*"):  # of other versions of this package
        lock = old / ".pio/build.lock"
        if lock.exists() and time.time() - lock.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old, ignore_errors=True)
    with staging_folder(PROJECT) as staging:
        for name in ("firmware", "platformio.ini"):
            source = paths.SHIPPED / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, staging / name)
        with contextlib.suppress(OSError):  # another process was faster
            staging.rename(PROJECT)


def platformio_settings(environment: str) -> dict[str, str]:
    """Environment variables for every call of PlatformIO: its folder is the project's, and it does not use the network."""
    settings = {
        "PLATFORMIO_CORE_DIR": str(PROJECT / ".platformio"),
        "PLATFORMIO_BUILD_DIR": str(build_folder(environment)),
        "HIL_FIRMWARE_COMMIT": firmware_commit(),
        "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
        "PLATFORMIO_SETTING_CHECK_PLATFORMIO_INTERVAL": "36500",  # days: a build must not look for updates
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",  # progress is read while it builds
    }
    return settings if is_tflm(environment) else settings | {TFLM_LIBRARY: ""}


def _run_platformio(environment: str, variables: dict[str, str], progress: Progress | None) -> None:
    shown_s = -PROGRESS_INTERVAL_S

    def show(line: str) -> None:
        nonlocal shown_s
        found = _LIBRARY_FILE.search(line)
        if found and progress is not None and time.monotonic() - shown_s >= PROGRESS_INTERVAL_S:
            shown_s = time.monotonic()
            progress(found[0])

    try:
        done = run_group(
            [sys.executable, "-m", "platformio", "run", "--environment", environment, "--project-dir", str(PROJECT)],
            timeout_s=BUILD_TIMEOUT_S,
            on_line=show,
            env=os.environ | platformio_settings(environment) | variables,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise FirmwareBuildError(
            f"building the firmware ({environment}) did not end within {BUILD_TIMEOUT_S:g} s and was stopped",
            "run the same command again: what was compiled is kept",
        ) from None
    if done.returncode != 0:
        raise _build_error(environment, done.stdout, variables)


def _build_error(environment: str, output: str, variables: Mapping[str, str]) -> FirmwareBuildError:
    if need := _too_large(environment, output):
        hint = "export a smaller network, or take a board with more memory: hil boards"
        if board_file := variables.get("HIL_BOARD_FILE"):
            hint = f"lower arena_bytes, upload_bytes or rx_buffer in {board_file}, or export a smaller network"
        return FirmwareBuildError(f"the image for {environment} is too large for the chip: {need}", hint)
    if TFLM_LIBRARY in output:
        hint = "see docs/boards.md for how to get it; or use the compact engine, which needs no library: --engine int8"
    elif lacking := sorted(set(_NOT_IN_LIBRARY.findall(output))):
        hint = (
            f"the library that {TFLM_LIBRARY} names lacks the kernels of {', '.join(lacking)}: add their sources, from "
            "tensorflow/lite/micro/kernels; or use the compact engine: --engine int8"
        )
    elif _NO_NETWORK.search(output):
        hint = f"PlatformIO lacks a package; install it, from the network: {install_packages(environment)}"
    else:
        given = "".join(f"{name}={shlex.quote(value)} " for name, value in variables.items())
        hint = f"see the whole output: {given}pio run --project-dir {PROJECT} -e {environment}"
    return FirmwareBuildError(f"building the firmware ({environment}) failed:\n{why_it_failed(output)}", hint)


def _too_large(environment: str, output: str) -> str:
    """Need and limit in bytes, if that is what the build failed for; the linker writes a region's size to its map."""
    if size := _TOO_LARGE.search(output):
        return f"it needs {size['need']} bytes, there are {size['limit']}"
    over = _OVERFLOW.search(output) or _BEYOND.search(output)
    if over is None:
        return ""
    linker_map = build_folder(environment) / environment / "program.map"
    text = linker_map.read_text() if linker_map.is_file() else ""
    size = re.search(rf"^{over['region']} +0x(\w+) +0x(\w+)", text, re.MULTILINE)
    if size is None:
        return f"{over['region']} is too small"
    origin, limit = (int(word, 16) for word in size.groups())
    need = limit + int(over["bytes"]) if over.re is _OVERFLOW else int(over["end"], 16) - origin
    return f"it needs {need} bytes of {over['region']}, there are {limit}"


def why_it_failed(output: str) -> str:
    """The lines of PlatformIO's output that name the error, or the last ones."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if _COMPLAINT.search(line) and not line.startswith(_STEPS)]
    return "\n".join((errors or lines)[-_LAST_LINES:])


def _provide_scons(folder: Path) -> None:
    """Provides PlatformIO's package ``tool-scons`` from the Python environment's SCons."""
    from platformio.dependencies import get_core_dependencies  # type: ignore[import-untyped]  # PlatformIO has no types

    wanted = get_core_dependencies()["tool-scons"].lstrip("~^=")
    package = {"name": "tool-scons", "version": wanted, "description": "SCons of the Python environment"}
    record = folder / ".piopm"
    if record.exists() and json.loads(record.read_text()).get("version") == wanted:
        return
    spec = {"owner": "platformio", "id": None, "name": "tool-scons", "requirements": None, "uri": None}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps(package) + "\n")
    (folder / "scons.py").write_text("from SCons.Script import main\n\nmain()\n")
    # Last: without it PlatformIO takes the folder for no package.
    record.write_text(json.dumps({"type": "tool", "name": "tool-scons", "version": wanted, "spec": spec}) + "\n")


def _drop_stale_platform_link(folder: Path) -> None:
    """Updates the project's path that PlatformIO stores: it would look for the platform there after a move."""
    for link in folder.glob("*.pio-link"):
        if json.loads(link.read_text()).get("cwd") != str(PROJECT):
            link.unlink()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - the git of PATH
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            timeout=ASK_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
