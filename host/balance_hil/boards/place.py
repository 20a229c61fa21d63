"""A board of a bench: one table of ``boards.toml``, the bench's map."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """What the map says about one board. Every field but ``name``, the heading of its table, is a key."""

    name: str
    kind: str  # what it is: a name that `hil boards` lists, such as teensy41 or qemu-m7
    usb_serial: str = ""  # USB serial number of its serial port, which stays when the device name changes
    port: str = ""  # instead of usb_serial: a link in /dev/serial/by-id or /dev/serial/by-path, or a URL
    baud: int = 0  # bits per second; 0 = as its kind
    probe: str = ""  # serial number of its debug probe (ST-Link, CMSIS-DAP), which flashes it; "" = that of its port
    labels: tuple[str, ...] = ()  # groups it belongs to, for --board @LABEL
    power: str = ""  # its power switch: a command in which {action} becomes on or off
    hub: str = ""  # instead of power: location of the USB hub that powers it, for uhubctl, such as "1-1.4"
    hub_port: int = 0  # port of that hub, from 1
    file: Path | None = field(default=None, compare=False)  # the map

    @property
    def is_connected(self) -> bool:
        """Whether it exists already, behind a port, so that no emulator is started for it."""
        return bool(self.port or self.usb_serial)

    @property
    def has_switch(self) -> bool:
        """Whether this program can switch its power."""
        return bool(self.power or self.hub)
