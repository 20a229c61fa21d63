"""Serial ports of this computer, and why one of them cannot be opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SerialPort:
    """One serial port that the operating system lists."""

    device: str  # "/dev/ttyACM0"
    description: str  # from the driver, or ""
    vid: int | None  # USB vendor id; None if not a USB device
    pid: int | None
    serial_number: str | None  # of the USB device; survives re-enumeration, unlike the device name
    accessible: bool  # this user may open it
    group: str | None  # group that owns the device node


def list_serial_ports() -> list[SerialPort]:
    """Serial ports that exist now, sorted by device name."""
    from serial.tools import list_ports

    return [
        SerialPort(
            device=port.device,
            description=port.description if port.description != "n/a" else "",
            vid=port.vid,
            pid=port.pid,
            serial_number=port.serial_number,
            accessible=sys.platform == "win32" or os.access(port.device, os.R_OK | os.W_OK),
            group=owning_group(port.device),
        )
        for port in sorted(list_ports.comports())
    ]


def existing_ports_hint() -> str:
    """The hint for a missing port: lists the existing ones."""
    devices = [port.device for port in list_serial_ports()]
    if not devices:
        return "no serial port is connected; list ports: hil boards; or use an emulated board: --board native"
    return f"existing ports: {', '.join(devices)}; details: hil boards"


def owning_group(device: str) -> str | None:
    """Name of the group that owns a device node, None when there is no such file or group."""
    try:
        return Path(device).group()
    except (OSError, KeyError, NotImplementedError):  # the last: only POSIX systems have groups
        return None


def holder_of(device: str) -> str | None:
    """The program that has ``device`` open, such as "picocom (process 123)"; None if unknown."""
    target = os.path.realpath(device)
    for pid, fd in _open_files():
        try:
            if str(fd.readlink()) == target:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                return f"{name} (process {pid})"
        except OSError:  # it has ended, or belongs to another user
            continue
    return None


def _open_files() -> Iterator[tuple[int, Path]]:
    own = os.getpid()
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        if pid == own:
            continue
        try:
            yield from ((pid, fd) for fd in (process / "fd").iterdir())
        except OSError:
            continue
