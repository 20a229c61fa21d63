"""What is plugged in, as entries of the bench's map."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from balance_hil.boards.bench import parse_map
from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.place import Place
from balance_hil.errors import HarnessError
from balance_hil.files import write_atomically
from balance_hil.link import SerialPort

LINKS = (Path("/dev/serial/by-id"), Path("/dev/serial/by-path"))
HEAD = "# The boards of this bench. Written by hil boards --discover, which adds new ones and changes nothing; docs/bench.md\n"


@dataclass
class Discovered:
    """What a look at the ports found."""

    added: list[Place] = field(default_factory=list)
    known: list[str] = field(default_factory=list)  # names of boards on the map that are plugged in
    unknown: list[str] = field(default_factory=list)  # ports that could be boards, and why they are not added


def discover(
    ports: Sequence[SerialPort],
    types: Mapping[str, BoardDefinition],
    places: Mapping[str, Place],
    ask: Callable[[SerialPort], str],
) -> Discovered:
    """Compares the ports with the map.

    Args:
        ports: those of this computer.
        types: the types of boards, by name.
        places: the map, by name.
        ask: returns what the firmware on a port calls itself; raises HarnessError. Called where the USB ids fit several types.
    """
    found = Discovered()
    names = set(places)
    numbers = [port.serial_number for port in ports]
    for port in (each for each in ports if each.vid is not None):
        fitting = [each.name for each in types.values() if each.usb_numbers_fit(port)]
        if owner := next((place.name for place in places.values() if _is_of(place, port)), None):
            found.known.append(owner)
            continue
        if len(fitting) > 1:
            try:
                fitting = [name for name in fitting if name == ask(port)] or fitting
            except HarnessError as exc:
                found.unknown.append(f"{port.device} is one of {', '.join(fitting)}: {exc.message}")
                continue
        if len(fitting) != 1:
            why = f"is one of {', '.join(fitting)}" if fitting else "has the USB ids of no type of board"
            found.unknown.append(f"{port.device} {why}")
            continue
        number = port.serial_number if port.serial_number and numbers.count(port.serial_number) == 1 else ""
        definition = types[fitting[0]]
        name = next(name for i in range(1, len(ports) + len(names) + 2) if (name := f"{fitting[0]}-{i}") not in names)
        names.add(name)
        found.added.append(
            Place(
                name=name,
                kind=fitting[0],
                usb_serial=number,
                port="" if number else stable_name(port.device),
                probe=number if definition.upload == "stlink" else "",
                labels=tuple(core.lower() for core in re.findall(r"Cortex-M\d+", definition.description)[:1]),
            )
        )
    return found


def _is_of(place: Place, port: SerialPort) -> bool:
    if place.port:
        return Path(place.port).resolve() == Path(port.device).resolve()
    return bool(place.usb_serial) and place.usb_serial == port.serial_number


def stable_name(device: str) -> str:
    """A link to a device that stays when other devices come and go; the device itself if there is none."""
    for folder in LINKS:
        for link in sorted(folder.glob("*")):
            if link.resolve() == Path(device).resolve():
                return str(link)
    return device


def as_toml(places: Iterable[Place]) -> str:
    """The tables of a map."""
    tables = []
    for place in places:
        lines = [f"[{place.name if re.fullmatch(r'[A-Za-z0-9_-]+', place.name) else _text(place.name)}]"]
        for key in ("kind", "usb_serial", "port", "probe"):
            if value := getattr(place, key):
                lines.append(f"{key} = {_text(value)}")
        if place.labels:
            lines.append(f"labels = [{', '.join(map(_text, place.labels))}]")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _text(value: str) -> str:
    """A basic string of TOML; a serial number comes from a device, which may say anything."""
    return json.dumps(value.encode(errors="replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


def write(path: Path, places: Sequence[Place], *, anew: bool = False) -> None:
    """Adds boards to a map, whose text stays as it is; ``anew``: they are all that it holds.

    Raises:
        ConfigError: the map would not be valid.
        OSError: it cannot be written.
    """
    before = HEAD if anew or not path.exists() else path.read_text()
    text = before.rstrip("\n") + "\n\n" + as_toml(places)
    parse_map(text, path)
    write_atomically(path, text)
