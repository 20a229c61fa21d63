"""Physical boards: find the port, open it."""

from __future__ import annotations

from collections.abc import Mapping

from balance_hil.boards.definition import BoardDefinition
from balance_hil.errors import AmbiguousBoardError, PortNotFoundError, UsageError
from balance_hil.link import SerialPort, list_serial_ports

KEYS: Mapping[str, type] = {}
COUNTS_CYCLES = True


def check_definition(definition: BoardDefinition) -> None:
    """No requirements: a board without a port or USB ids needs --port."""


def find_port(definition: BoardDefinition, ports: list[SerialPort] | None = None) -> str:
    """The port of a physical board, from its definition.

    Raises:
        UsageError: the definition names neither port nor USB ids.
        AmbiguousBoardError: several boards match.
        PortNotFoundError: none matches.
    """
    if definition.port:
        return definition.port
    if definition.usb_vid is None and not (definition.place and definition.usb_serial):
        raise UsageError(
            f"the definition of {definition.name} names no port",
            "pass --port, for example --port /dev/ttyACM0; list ports: hil boards",
        )
    found = [port for port in (list_serial_ports() if ports is None else ports) if definition.matches(port)]
    if not found:
        pid = "*" if definition.usb_pid is None else f"{definition.usb_pid:04x}"
        numbers = [] if definition.usb_vid is None or definition.place else [f"{definition.usb_vid:04x}:{pid}"]
        serial = [f"with serial number {definition.usb_serial}"] if definition.usb_serial else []
        usb = " ".join(["USB", *numbers, *serial])
        raise PortNotFoundError(f"no {definition.name} is connected ({usb})", "connect it; list ports: hil boards")
    if len(found) > 1:
        listed = ", ".join(f"{port.device} (serial number {port.serial_number})" for port in found)
        raise AmbiguousBoardError(
            f"{len(found)} boards look like {definition.name}: {listed}",
            "pass --port, or name each in the bench's map: hil boards --discover",
        )
    return found[0].device
