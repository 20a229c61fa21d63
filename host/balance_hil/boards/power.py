"""The power switch of a board of the bench: a command, or a port of a USB hub that ``uhubctl`` switches."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Literal

from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.place import Place
from balance_hil.errors import (
    FlashToolMissingError,
    PortBusyError,
    PortNotFoundError,
    PortOpenError,
    PortPermissionError,
    PowerSwitchError,
    UsageError,
)
from balance_hil.link import Link, open_link
from balance_hil.processes import run_group

OFF_S = 1.0  # until the capacitors of a board are empty
SWITCH_TIMEOUT_S = 30.0
BACK_TIMEOUT_S = 30.0  # from power on to a port that opens: enumeration, udev rules
LOOK_INTERVAL_S = 0.1
_LAST_CHARACTERS = 300

Action = Literal["on", "off", "cycle"]


def switch(place: Place, action: Action, progress: Callable[[str], None] | None = None) -> None:
    """Switches the power of a board. "cycle" is off, a second, and on.

    Raises:
        UsageError: the map names no switch for it.
        FlashToolMissingError: the switch's program is not installed.
        PowerSwitchError: it failed, or did not end in time.
    """
    if not place.has_switch:
        how = "add power or hub to its table: docs/bench.md" if place.file else "give it one there: docs/farm.md"
        raise UsageError(f"{place.name} has no power switch in {place.file or 'its farm'}", how)
    for step in ("off", "on") if action == "cycle" else (action,):
        if progress is not None:
            progress(f"{place.name}: power {step}")
        _run(command(place, step), place)
        if action == "cycle" and step == "off":
            time.sleep(OFF_S)


def reopened(definition: BoardDefinition, baud: int | None = None) -> Link:
    """The link to a board whose power has just come back, once its port is there. Raises what the port's opening last raised."""
    from balance_hil.boards.kinds.machines import find_port  # it imports this package

    deadline = time.monotonic() + BACK_TIMEOUT_S
    while True:
        try:
            return open_link(find_port(definition), baud or definition.baud)
        except (PortNotFoundError, PortBusyError, PortPermissionError, PortOpenError):
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_INTERVAL_S)


def command(place: Place, action: str) -> list[str]:
    """The words of the command that switches it "on" or "off"."""
    if place.hub:
        return ["uhubctl", "--location", place.hub, "--ports", str(place.hub_port), "--action", action]
    return [word.replace("{action}", action) for word in shlex.split(place.power)]


def _run(words: list[str], place: Place) -> None:
    said = shlex.join(words)
    if shutil.which(words[0]) is None:
        install = (
            "apt-get install uhubctl"
            if place.hub
            else f"install it, or correct power of {place.name} in {place.file or 'its farm'}"
        )
        raise FlashToolMissingError(f"the power switch of {place.name} needs {words[0]}, which is not installed", install)
    try:
        done = run_group(words, timeout_s=SWITCH_TIMEOUT_S, stderr=subprocess.STDOUT, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise PowerSwitchError(f"the power switch of {place.name} failed: {exc}", f"try it: {said}") from exc
    if done.returncode != 0:
        output = " ".join(done.stdout.split())[-_LAST_CHARACTERS:]
        raise PowerSwitchError(
            f"the power switch of {place.name} failed with exit status {done.returncode}: {output}", f"try it: {said}"
        )
