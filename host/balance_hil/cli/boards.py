"""``hil boards``: connected boards, and boards that can be emulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from balance_hil.boards import BoardDefinition, load_definitions
from balance_hil.boards.reservation import Owner, reservations
from balance_hil.cli.console import make_table, print_json, say, stdout
from balance_hil.cli.params import JSON
from balance_hil.errors import HarnessError
from balance_hil.link import SerialPort, list_serial_ports


@click.command()
@JSON
def command(as_json: bool) -> None:
    """List the serial ports of this computer and the supported boards."""
    ports = list_serial_ports()
    boards = list(load_definitions().values())
    owners = reservations()
    if as_json:
        print_json(
            {
                "ports": [_port(port, boards) for port in ports],
                "boards": [_board(board, ports) for board in boards],
                "reservations": [asdict(owner) for owner in owners],
            }
        )
        return
    _print_ports(ports, boards)
    stdout.print()
    _print_boards([_board(board, ports) for board in boards])
    if owners:
        stdout.print()
        _print_owners(owners)


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
