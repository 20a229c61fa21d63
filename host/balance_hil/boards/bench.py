"""The map of a bench, ``boards.toml``: its boards by name and by label, each with what belongs to it, reserved together."""

from __future__ import annotations

import contextlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from balance_hil.boards import farm, reservation
from balance_hil.boards.definition import ANY_SERIAL, BoardDefinition, load_definitions
from balance_hil.boards.place import Place
from balance_hil.boards.power import reopened, switch
from balance_hil.errors import ConfigError, HarnessError, PortNotFoundError, UnknownBoardError, UsageError
from balance_hil.files import did_you_mean, read_limited
from balance_hil.paths import CONFIG

FILE = "boards.toml"
MAX_BYTES = 64 << 10  # tomllib takes a time that grows with its square
LABEL, EVERY = "@", ":all"  # --board @LABEL, --board @LABEL:all
_PROJECT = (".git", "pyproject.toml")  # what the root of a project holds
_NAME = re.compile(r"[\w.+-]+")
_NO_KEYS = ("name", "file")
_TYPES: dict[str, type] = {
    each.name: {"int": int, "str": str}.get(str(each.type), list) for each in fields(Place) if each.name not in _NO_KEYS
}
_PAGE = "its keys are in docs/bench.md"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Held:
    """A board that this process has reserved."""

    definition: BoardDefinition
    port: str | None  # device or URL; None: this program starts it


# --- the map --------------------------------------------------------------------------------------------------------------


def map_path() -> Path | None:
    """The map: in the current folder, in those above it up to the project's root, or in the user's configuration folder."""
    with contextlib.suppress(OSError):  # the current folder was removed
        here = Path.cwd()
        upward = [here, *here.parents]
        roots = [number for number, folder in enumerate(upward) if any((folder / name).exists() for name in _PROJECT)]
        for folder in upward[: roots[0] + 1] if roots else [here]:
            if (folder / FILE).is_file():
                return folder / FILE
    return CONFIG / FILE if (CONFIG / FILE).is_file() else None


def load_map(path: Path | None = None) -> dict[str, Place]:
    """The boards of the bench, by name; none without a map.

    Args:
        path: a map; None: the one that ``map_path`` finds.

    Raises:
        ConfigError: not TOML, an unknown key or kind, a value of the wrong type, or a port, probe or switch of two boards.
    """
    path = path or map_path()
    if path is None:
        return {}
    try:
        return parse_map(read_limited(path, MAX_BYTES).decode(), path)
    except (OSError, ValueError, RecursionError) as exc:
        if isinstance(exc, HarnessError):
            raise
        raise ConfigError(f"{path} cannot be read: {exc}", _PAGE) from exc


def parse_map(text: str, path: Path) -> dict[str, Place]:
    """The boards of a map with this text. Raises ConfigError, with ``path`` in its message."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}", _PAGE) from exc
    kinds = load_definitions()
    places = {name: _place(name, table, path, kinds) for name, table in tables.items()}
    _check_unique(places.values(), path)
    return places


def _place(name: str, table: Any, path: Path, kinds: Mapping[str, BoardDefinition]) -> Place:
    where = f"{path}: {name}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is a key outside of a board", "a board is a table that begins with [NAME]; " + _PAGE)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where!r} is no name of a board", "use letters, digits, '_', '.', '+' and '-'")
    for key, value in table.items():
        if key not in _TYPES:
            raise ConfigError(f"{where}: unknown key {key!r}" + did_you_mean(key, _TYPES), f"valid keys: {', '.join(_TYPES)}")
        wanted = _TYPES[key]
        if type(value) is not wanted or (isinstance(value, list) and not all(isinstance(each, str) for each in value)):
            what = "a list of texts" if wanted is list else f"of type {wanted.__name__}"
            raise ConfigError(f"{where}: {key} must be {what}, not {str(value)[:80]!r}", "correct it")
    if "kind" not in table:
        raise ConfigError(f"{where}: kind is missing", 'add a line kind = "..."; kinds: hil boards')
    if table["kind"] not in kinds:
        raise ConfigError(
            f"{where}: unknown kind {table['kind']!r}" + did_you_mean(table["kind"], kinds), f"kinds: {', '.join(sorted(kinds))}"
        )
    if name in kinds and name != table["kind"]:
        raise ConfigError(f"{where} is the name of another kind of board than {table['kind']}", "choose another name")
    place = Place(name=name, file=path, **table | {"labels": tuple(table.get("labels", ()))})
    _check_place(place, where)
    return place


def _check_place(place: Place, where: str) -> None:
    for label in place.labels:
        if not _NAME.fullmatch(label):
            raise ConfigError(f"{where}: {label!r} is no label", "use letters, digits, '_', '.', '+' and '-'")
    for one, other in (("port", "usb_serial"), ("power", "hub")):
        if getattr(place, one) and getattr(place, other):
            raise ConfigError(f"{where}: {one} and {other} exclude each other", f"leave out {one}")
    if place.power and "{action}" not in place.power:
        raise ConfigError(f"{where}: power does not say where on and off go", 'as in power = "relay 3 {action}"')
    try:
        shlex.split(place.power)
    except ValueError as exc:
        raise ConfigError(f"{where}: power is no command: {exc}", "close its quotes") from exc
    if bool(place.hub) != (place.hub_port > 0):
        raise ConfigError(f"{where}: hub and hub_port belong together", 'as in hub = "1-1.4" and hub_port = 2; see: uhubctl')
    if place.baud < 0:
        raise ConfigError(f"{where}: baud must be positive, not {place.baud}", "correct it")


def _check_unique(places: Iterable[Place], path: Path) -> None:
    owners: dict[tuple[str, Any], Place] = {}
    for place in places:
        belongings = {
            "port": reservation.identity(place.port) if place.port else "",
            "USB serial number": place.usb_serial,
            "probe": place.probe,
            "hub port": (place.hub, place.hub_port) if place.hub else "",
        }
        said = {"port": place.port, "hub port": f"{place.hub} {place.hub_port}"}
        for what, value in belongings.items():
            if value and (other := owners.setdefault((what, value), place)) is not place:
                raise ConfigError(
                    f"{path}: {other.name} and {place.name} have the same {what}, {said.get(what, value)}",
                    "correct one of them; what is plugged in: hil boards",
                )


# --- names and labels -----------------------------------------------------------------------------------------------------


def is_bound_when_held(name: str) -> bool:
    """Whether ``held`` has to say which board ``name`` means: "@LABEL", or a place of a farm."""
    return name.startswith(LABEL) or farm.farm_kind(name) is not None


def find_board(name: str) -> BoardDefinition:
    """The board called ``name``: of the bench's map, a type of board, or of a farm, which is not asked: see ``held``.

    Raises:
        UnknownBoardError: there is none.
        ConfigError: the map or a board file is invalid.
    """
    places, kinds = load_map(), load_definitions()
    if name in places:
        return _definition(places[name], kinds)
    if name in kinds:
        return kinds[name]
    if farm.farm_kind(name):
        return BoardDefinition(name=name, kind=name.partition(farm.SEPARATOR)[0])
    if name.startswith(LABEL):
        raise UnknownBoardError(f"{name} is a label, and this takes a board", f"name one: {', '.join(_labeled(name))}")
    known = sorted({*places, *kinds})
    raise UnknownBoardError(f"unknown board {name!r}" + did_you_mean(name, known), f"boards: {', '.join(known)}; see hil boards")


def _definition(place: Place, kinds: Mapping[str, BoardDefinition]) -> BoardDefinition:
    kind = kinds[place.kind]
    mapped = replace(kind, name=place.name, place=place, baud=place.baud or kind.baud)
    return replace(mapped, port=place.port, usb_serial=place.usb_serial) if place.is_connected else mapped


def _of_farm(place: Place) -> BoardDefinition:
    kinds = {**load_definitions(), ANY_SERIAL.name: ANY_SERIAL}
    if place.kind not in kinds:
        raise ConfigError(
            f"the farm says that {place.name} is a board {place.kind!r}" + did_you_mean(place.kind, kinds),
            f"correct it there, or add a board file; boards: {', '.join(sorted(kinds))}",
        )
    return _definition(place, kinds)


def board_names() -> list[str]:
    """What ``--board`` takes: names of the map, labels, types of boards."""
    places = load_map()
    labels = sorted({LABEL + label for place in places.values() for label in place.labels})
    return [*sorted({*places, *load_definitions()}), *labels, *(label + EVERY for label in labels)]


def expanded(names: Iterable[str]) -> list[str]:
    """``names`` with every board of the label in place of "@LABEL:all" that is not there already; "@LABEL" stays.

    Raises:
        UnknownBoardError: no such board or label.
        ConfigError: the map or a board file is invalid.
    """
    found: list[str] = []
    for name in names:
        if name.startswith(LABEL):
            labeled = _labeled(name)
            found += [each for each in labeled if each not in found] if name.endswith(EVERY) else [name]
        else:
            find_board(name)
            found.append(name)
    return found


def _labeled(name: str) -> list[str]:
    """Names of the boards that "@LABEL" or "@LABEL:all" means."""
    label = name.removeprefix(LABEL).removesuffix(EVERY)
    places = load_map()
    if found := [place.name for place in places.values() if label in place.labels]:
        return found
    labels = sorted({each for place in places.values() for each in place.labels})
    where = f"labels: {', '.join(labels)}" if labels else f"give a board of {FILE} a label: docs/bench.md"
    raise UnknownBoardError(
        f"no board of the bench has the label {label!r}" + did_you_mean(label, labels, LABEL),
        where if places else f"there is no {FILE}; make one of what is plugged in: hil boards --discover",
    )


# --- reserving ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(
    name: str, wait_s: float = 0.0, progress: Progress | None = None, *, port: str | None = None, connected: bool = True
) -> Iterator[Held]:
    """Reserves a board with its port and its probe for this process; an emulated one that is not on the map needs none.

    Args:
        name: of a board, "@LABEL" for the first free one with that label, or "KIND:PLACE" for a board of a farm.
        wait_s: time to wait for another owner to release it.
        progress: called with a message if it has to wait.
        port: where a board is that is not on the map; None: it is found.
        connected: False: it may be switched off, and is held without its port then. Not for "@LABEL".

    Raises:
        UnknownBoardError, ConfigError: no such board, or an invalid map.
        UsageError: "@LABEL:all", or another ``port`` than the map's.
        PortNotFoundError, AmbiguousBoardError: it is not connected, or cannot be told from others.
        PortBusyError, PortOpenError: it is held, or cannot be reserved.
        FarmError and what else the kind of a farm raises.
    """
    if farm.farm_kind(name):
        if port is not None:
            raise UsageError(f"{name} has its port from the farm", "leave out --port")
        with farm.acquired(name, wait_s, progress) as lent:
            place = Held(_of_farm(lent), lent.port)
            with reservation.all_reserved(_resources(place), wait_s, progress, name=name):
                yield place
        return
    if not name.startswith(LABEL):
        definition = find_board(name)
        with contextlib.suppress(*() if connected else (PortNotFoundError,)):
            found = None
            found = _port(definition) if definition.place or port is None else port
        if port is not None and found != port and (found is None or reservation.identity(port) != reservation.identity(found)):
            where = f"{name} is on {found}" if found else f"{name} is emulated"
            raise UsageError(f"{where}, says {map_path()}, not on {port}", "leave out --port, or change the map")
        place = Held(definition, found)
        with reservation.all_reserved(
            _resources(place), wait_s, progress, name=definition.place.name if definition.place else ""
        ):
            yield place
        return
    if port is not None:
        raise UsageError(f"{name} stands for boards that have their ports in {map_path()}", "leave out --port")
    names = _labeled(name)
    if name.endswith(EVERY) and len(names) > 1:
        raise UsageError(
            f"{name} stands for {len(names)} boards, and this takes one",
            f"name one: {', '.join(names)}; or any free one: {name.removesuffix(EVERY)}",
        )
    places = _connected(names)
    with reservation.first_free(
        {each: _resources(place) for each, place in places.items()}, f"board with the label {name}", wait_s, progress
    ) as chosen:
        if progress is not None:
            progress(f"{name} is {chosen}")
        yield places[chosen]


def starts_here(name: str, port: str | None = None) -> bool:
    """Whether this program starts the board, as often as it is wanted. Raises UnknownBoardError."""
    return port is None and not is_bound_when_held(name) and find_board(name).is_emulated


def power_cycled(name: str, wait_s: float = 0.0) -> bool:
    """Power-cycles a board by its switch, and waits for its port; False: it has no switch, or this program starts it.

    Raises:
        PortBusyError: somebody else has it.
        FlashToolMissingError, PowerSwitchError: the switch cannot be used, or failed.
        Port…Error: the port did not come back.
    """
    definition = find_board(name)
    if definition.is_emulated or (definition.place is None and not farm.farm_kind(name)):
        return False
    with held(name, wait_s, connected=False) as board:
        place = board.definition.place
        if place is None or not place.has_switch:
            return False
        switch(place, "cycle")
        reopened(board.definition).close()
    return True


def _connected(names: Iterable[str]) -> dict[str, Held]:
    """Those of ``names`` that are there. Raises what the search for the first raised if none is."""
    places: dict[str, Held] = {}
    absent: list[HarnessError] = []
    for name in names:
        definition = find_board(name)
        try:
            places[name] = Held(definition, _port(definition))
        except HarnessError as exc:
            absent.append(exc)
    if not places:
        raise absent[0]
    return places


def _port(definition: BoardDefinition) -> str | None:
    if definition.is_emulated:
        return None
    from balance_hil.boards.kinds.machines import find_port  # it imports this package

    return find_port(definition)


def _resources(place: Held) -> list[str]:
    entry = place.definition.place
    resources = [place.port] if place.port else []
    if entry is not None:
        resources[:0] = [reservation.board(entry.name, entry.file)] if entry.file else []  # a farm has locks of its own
        resources += [reservation.probe(entry.probe)] if entry.probe else []
    return resources
