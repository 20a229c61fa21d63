"""``hil boards``: connected boards, and boards that can be emulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import click

from balance_hil.boards import BoardDefinition, connect, find_board, load_definitions, reservation
from balance_hil.boards.bench import FILE, load_map, map_path
from balance_hil.boards.discovery import Discovered, discover, write
from balance_hil.boards.farm import FarmKind, FarmPlace, farm_kinds
from balance_hil.boards.flash import ASK_TIMEOUT_S
from balance_hil.boards.kinds import find_kind
from balance_hil.boards.kinds.machines import find_port
from balance_hil.boards.place import Place
from balance_hil.boards.reservation import Owner, reservations
from balance_hil.cli.console import make_table, print_json, say, stdout
from balance_hil.cli.params import JSON
from balance_hil.errors import HarnessError, UsageError
from balance_hil.link import SerialPort, list_serial_ports


@click.command()
@click.option("--discover", is_flag=True, help="Add what is plugged in to boards.toml; what is there stays as it is.")
@click.option("--force", is_flag=True, help="With --discover: write boards.toml anew.")
@JSON
def command(discover: bool, force: bool, as_json: bool) -> None:
    """List the serial ports of this computer, the supported boards, and the boards of the bench with who holds them."""
    if force and not discover:
        raise UsageError("--force belongs to --discover", "hil boards --discover --force")
    ports = list_serial_ports()
    types = load_definitions()
    found = _discover(ports, types, anew=force) if discover else None
    boards = list(types.values())
    places = load_map()
    owners = reservations()
    lent = _lent()
    if as_json:
        print_json(
            {
                "ports": [_port(port, boards) for port in ports],
                "boards": [_board(board, ports) for board in boards],
                "map": str(map_path()) if places else None,
                "bench": [_place(place, owners) for place in places.values()],
                "farms": [asdict(place) for place in lent],
                "reservations": [asdict(owner) for owner in owners],
                **({"added": [place.name for place in found.added], "unknown": found.unknown} if found else {}),
            }
        )
        return
    if found is None:
        _print_ports(ports, boards)
        stdout.print()
        _print_boards([_board(board, ports) for board in boards])
    if places:
        stdout.print()
        _print_bench([_place(place, owners) for place in places.values()])
    if lent:
        stdout.print()
        _print_lent(lent)
    if others := [owner for owner in owners if owner.board not in places]:
        stdout.print()
        _print_owners(others)


def _discover(ports: Sequence[SerialPort], types: Mapping[str, BoardDefinition], *, anew: bool) -> Discovered:
    """Writes the map and says what is new. Raises ConfigError, UsageError."""
    path = map_path() or Path(FILE)
    found = discover(ports, types, {} if anew else load_map(), _asked)
    for line in found.unknown:
        say(f"not added: {line}")
    if found.added or (anew and path.exists()):
        try:
            write(path, found.added, anew=anew)
        except OSError as exc:
            raise UsageError(f"cannot write {path}: {exc.strerror}", "make the folder writable, or go to another one") from exc
    for place in found.added:
        say(f"added to {path}: {place.name}")
    if not found.added:
        say(f"nothing to add: {len(found.known)} boards of the map are plugged in, and no others")
    return found


def _lent() -> list[FarmPlace]:
    """The boards of farms; of one that does not answer it is said why."""
    places: list[FarmPlace] = []
    for name in farm_kinds():
        try:
            places += cast(FarmKind, find_kind(name)).places()
        except HarnessError as exc:
            say(f"{name}: {exc.message}; {exc.hint}")
    return places


def _print_lent(places: Sequence[FarmPlace]) -> None:
    table = make_table("farm", "kind", "labels", "state")
    for place in places:
        table.add_row(place.name, place.kind, ", ".join(place.labels), place.state)
    stdout.print(table)


def _asked(port: SerialPort) -> str:
    with connect("serial", port=port.device, handshake_timeout_s=ASK_TIMEOUT_S) as board:
        return board.info.board


def _place(place: Place, owners: Sequence[Owner]) -> dict[str, Any]:
    definition = find_board(place.name)
    port, problem = None, None
    try:
        port = None if definition.is_emulated else find_port(definition)
    except HarnessError as exc:
        problem = exc.message
    owner = next((owner for owner in owners if owner.port == reservation.board(place.name, place.file or Path())), None)
    return {
        "name": place.name,
        "kind": place.kind,
        "labels": list(place.labels),
        "emulated": definition.is_emulated,
        "port": port,
        "usb_serial": place.usb_serial or None,
        "probe": place.probe or None,
        "power": bool(place.has_switch),
        "problem": problem,
        "held_by": asdict(owner) if owner else None,
    }


def _print_bench(places: Sequence[dict[str, Any]]) -> None:
    table = make_table("bench", "kind", "labels", "port", "power", "state", title=f"{map_path()}")
    for place in places:
        where = "emulated" if place["emulated"] else place["port"] or ""
        owner = Owner(**place["held_by"]) if place["held_by"] else None
        state = f"held by {owner}" if owner else place["problem"] or "free"
        switch = "switch" if place["power"] else ""
        table.add_row(place["name"], place["kind"], ", ".join(place["labels"]), where, switch, state)
    stdout.print(table)


def _port(port: SerialPort, boards: Sequence[BoardDefinition]) -> dict[str, Any]:
    return {**asdict(port), "boards": [board.name for board in boards if board.matches(port)]}


def _board(board: BoardDefinition, ports: Sequence[SerialPort]) -> dict[str, Any]:
    found = [port.device for port in ports if board.matches(port)]
    missing = _missing(board)
    return {
        "name": board.name,
        "kind": board.kind,
        "emulated": board.is_emulated,
        "file": str(board.file),
        "description": board.description,
        "available": missing is None and (board.is_emulated or bool(found or board.port)),
        "ports": found or [board.port] * bool(board.port),
        "missing": missing.message if missing else None,
        "hint": missing.hint if missing else None,
    }


def _missing(board: BoardDefinition) -> HarnessError | None:
    """Why an emulated board cannot be started here."""
    from balance_hil.boards.kinds.machines import check_installation

    try:
        check_installation(board)
    except HarnessError as exc:
        return exc
    return None


def _print_ports(ports: Sequence[SerialPort], boards: Sequence[BoardDefinition]) -> None:
    if not ports:
        stdout.print("no serial port found")
        return
    table = make_table("port", "USB", "serial number", "board", "description")
    for port in ports:
        usb = "" if port.vid is None or port.pid is None else f"{port.vid:04x}:{port.pid:04x}"
        names = ", ".join(board.name for board in boards if board.matches(port))
        table.add_row(port.device, usb, port.serial_number or "", names, port.description)
    stdout.print(table)
    for port in ports:
        if not port.accessible:
            say(f"you may not open {port.device}: sudo usermod -aG {port.group or 'dialout'} $USER, then log in again")


def _print_boards(boards: Sequence[dict[str, Any]]) -> None:
    table = make_table("board", "kind", "state", "description")
    for board in boards:
        table.add_row(board["name"], "emulated" if board["emulated"] else "physical", _state(board), board["description"])
    stdout.print(table)
    for board in boards:
        if board["missing"]:
            say(f"{board['name']}: {board['missing']}; {board['hint']}")


def _print_owners(owners: Sequence[Owner]) -> None:
    table = make_table("held port", "user", "process", "since", "command")
    for owner in owners:
        table.add_row(owner.port, owner.user, f"{owner.host} {owner.pid}", f"{owner.age} ago", owner.command)
    stdout.print(table)


def _state(board: dict[str, Any]) -> str:
    if board["missing"]:
        return "not available"
    if board["emulated"]:
        return "ready to start"
    return ", ".join(board["ports"]) or "give --port"
