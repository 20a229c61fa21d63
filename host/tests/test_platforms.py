"""Windows and macOS: what needs no pseudo-terminal imports and runs, the rest says what it needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import serial

from balance_hil.boards.kinds import native, qemu
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.errors import EmulatorMissingError, PortBusyError, PortNotFoundError
from balance_hil.link import SerialPort, serial_link

# A computer without the modules of POSIX systems, as far as balance_hil is concerned: other packages bring their own versions for
# other systems, and are left alone.
ELSEWHERE = """
import builtins, os, sys
ABSENT = {"fcntl", "tty", "pty", "termios", "resource", "grp", "pwd"}
real_import = builtins.__import__

def importing(name, namespace=None, *rest, **more):
    if name.split(".")[0] in ABSENT and str((namespace or {}).get("__name__")).startswith("balance_hil"):
        raise ModuleNotFoundError(f"No module named {name!r}, asked for by {namespace['__name__']}")
    return real_import(name, namespace, *rest, **more)

builtins.__import__ = importing
for name in ("fork", "openpty", "ttyname", "pread", "geteuid", "getgroups", "sched_getaffinity", "sched_setscheduler"):
    delattr(os, name)
"""
EVERY_MODULE = """
import pkgutil, importlib, balance_hil
PROGRAMS = {"balance_hil.__main__"}
POSIX_ONLY = {"balance_hil.benchmarks.loop"}  # it measures a pseudo-terminal
found = {module.name for module in pkgutil.walk_packages(balance_hil.__path__, "balance_hil.")} - PROGRAMS - POSIX_ONLY
broken = {}
for name in sorted(found):
    try:
        importlib.import_module(name)
    except Exception as exc:
        broken[name] = repr(exc)
assert len(found) > 150, len(found)
print(__import__("json").dumps(broken))
"""


def elsewhere(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ELSEWHERE + program], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_module_imports() -> None:
    done = elsewhere(EVERY_MODULE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "ppo", "--runtimes", "int8-reference,int8-builtin", "--observations", "golden", "--samples", "200", "--json"],
        ["evaluate", "ppo", "--runtime", "int8-reference", "--episodes", "1", "--json"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_what_needs_no_board_runs(arguments: list[str]) -> None:
    done = elsewhere(f"sys.argv = ['hil', *{arguments}]\nfrom balance_hil.cli import main\nmain()")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)


def test_boards_are_listed_with_what_keeps_them_from_starting() -> None:
    others = "import multiprocessing, platformdirs, serial.tools.list_ports, gymnasium"  # would look for another system's modules
    program = "sys.argv = ['hil', 'boards', '--json']\nsys.platform = 'darwin'\nfrom balance_hil.cli import main\nmain()"
    done = elsewhere(f"{others}\n{program}")
    assert done.returncode == 0, done.stderr[-2000:]
    boards = {board["name"]: board for board in json.loads(done.stdout)["boards"]}
    assert "run on Linux only" in boards["native"]["missing"]
    assert boards["teensy41"]["missing"] is None


@pytest.mark.parametrize("kind", [native, qemu])
def test_an_emulated_board_says_what_it_needs(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(EmulatorMissingError, match="run on Linux only") as caught:
        kind.check_installation()  # type: ignore[attr-defined]
    assert "hil evaluate" in caught.value.hint


def test_a_native_board_is_not_started_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmulatorMissingError, match="run on Linux only"):
        native.NativeMachine(EmulationConfig(engine="int8"))


def test_a_port_of_windows_that_another_program_has_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    there = SerialPort(device="COM3", description="", vid=None, pid=None, serial_number=None, accessible=True, group=None)
    denied = serial.SerialException("could not open port 'COM3': PermissionError(13, 'Access is denied.', None, 5)")
    monkeypatch.setattr(serial_link, "list_serial_ports", lambda: [there])
    monkeypatch.setattr(serial_link, "existing_ports_hint", lambda: "ports that exist: COM3")
    monkeypatch.setattr(sys, "platform", "win32")
    assert isinstance(serial_link._open_error("COM3", denied), PortBusyError)
    assert isinstance(serial_link._open_error("COM4", denied), PortNotFoundError)
