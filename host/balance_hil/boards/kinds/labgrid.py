"""Places of a labgrid farm, ``--board labgrid:PLACE``: acquired, used through their serial port, and released.

labgrid stays in an environment of its own and is called through ``labgrid-client``. A guardian, a process that waits for the end
of this one, releases the place: so it is released after SIGKILL, too.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from balance_hil.boards.channel import printable
from balance_hil.boards.farm import FarmPlace
from balance_hil.boards.place import Place
from balance_hil.errors import (
    AmbiguousBoardError,
    FarmError,
    FlashToolMissingError,
    PortBusyError,
    PortNotFoundError,
    UnknownBoardError,
)
from balance_hil.files import did_you_mean, parse_yaml
from balance_hil.paths import IS_CHECKOUT, LABGRID
from balance_hil.processes import run_group

NAME = "labgrid"
VERSION = "26.0.1"  # that the tests use; host/labgrid-constraints.txt
CLIENT = "labgrid-client"
CLIENT_VARIABLE = "HIL_LABGRID_CLIENT"  # its path, where it is not in PATH
COORDINATOR_VARIABLE = "LG_COORDINATOR"  # labgrid's own
COORDINATOR = "127.0.0.1:20408"  # labgrid's default
TYPE_TAG = "board"  # tag of a place: what type of board is there
CLIENT_TIMEOUT_S = 30.0
LOOK_INTERVAL_S = 1.0
_PAGE = "docs/farm.md"
_OTHER_SETTINGS = ("LG_PLACE", "PLACE", "LG_STATE", "STATE", "LG_INITIAL_STATE", "LG_ENV")  # would change what a call does
_POWER = ("PDUDaemonPort", "NetworkSysfsGPIO")  # resources that `labgrid-client power` switches, beside those called ...PowerPort
# Waits for the end of its input. A line says that there is nothing to do; otherwise the owner has ended, or is done.
_GUARDIAN = 'trap "" INT HUP TERM; read -r line && exit; exec "$@"'
_RESERVATION = "reservation "
_HEAD = re.compile(r"Place '(.+)':")
_FIELD = re.compile(r"  (tags|acquired|changed|reservation): (.*)")

Progress = Callable[[str], None]


@contextlib.contextmanager
def acquired(place: str, wait_s: float, progress: Progress | None) -> Iterator[Place]:
    """Holds a place of the farm. See ``farm.FarmKind``.

    Raises:
        FlashToolMissingError: labgrid-client is not installed.
        FarmError: the coordinator does not answer or is of another version, or the place has no exporter.
        UnknownBoardError: there is no such place.
        PortBusyError: somebody else holds it.
        PortNotFoundError, AmbiguousBoardError: it has no serial port, or several.
    """
    client = _Client()
    with contextlib.ExitStack() as stack:
        listed = _acquire(client, place, wait_s, progress, stack)
        yield _place(client, place, listed)


def places() -> list[FarmPlace]:
    """The places of the coordinator that $LG_COORDINATOR names. Raises FlashToolMissingError, FarmError."""
    return list(_Client().places().values()) if os.environ.get(COORDINATOR_VARIABLE) else []


# --- acquiring ------------------------------------------------------------------------------------------------------------


def _acquire(client: _Client, place: str, wait_s: float, progress: Progress | None, stack: contextlib.ExitStack) -> FarmPlace:
    """Acquires a place that is free; otherwise waits in the coordinator's queue, which is one of reservations."""
    deadline, ticket = time.monotonic() + wait_s, ""
    with contextlib.ExitStack() as queue:
        while True:
            listed = client.places()
            if place not in listed:
                raise UnknownBoardError(
                    f"the labgrid coordinator at {client.coordinator} has no place {place!r}" + did_you_mean(place, listed),
                    f"places: {', '.join(sorted(listed)) or 'none'}; make one: labgrid-client -p {place} create ({_PAGE})",
                )
            free = listed[place].held_by in ("", _reservation(ticket))
            if free and _acquire_now(client, place, progress, stack):
                return listed[place]
            held = f"{NAME}:{place} is {'held by somebody else' if free else listed[place].state}"
            if time.monotonic() >= deadline:
                yours = f"hil boards; if it is yours: labgrid-client -p {place} release"
                if listed[place].held_by.startswith(_RESERVATION):
                    yours = "labgrid-client reservations; if it is yours: labgrid-client cancel-reservation TOKEN"
                raise PortBusyError(held, f"wait for it: --wait {max(60, 2 * round(wait_s))}; who holds what: {yours}")
            if not ticket:
                ticket = client.reserve(place)
                queue.callback(client.call, "cancel-reservation", ticket)  # once acquired, or given up
                if progress is not None:
                    progress(f"waiting up to {wait_s:g} s: {held}")
            elif free:  # somebody took it in between
                time.sleep(LOOK_INTERVAL_S)
            client.wait(ticket, deadline - time.monotonic())


def _acquire_now(client: _Client, place: str, progress: Progress | None, stack: contextlib.ExitStack) -> bool:
    """Acquires a place until ``stack`` is closed; False: somebody else was faster."""
    guardian = client.start(
        ["/bin/sh", "-c", _GUARDIAN, "guardian", client.program, "-p", place, "release-from", client.identity]
    )

    def release() -> None:
        with contextlib.suppress(OSError):
            guardian.stdin.close()
        try:
            released = guardian.wait(CLIENT_TIMEOUT_S) == 0
        except subprocess.TimeoutExpired:
            released = False
        if not released and progress is not None:
            progress(f"{NAME}:{place} may not have been released; see: labgrid-client -p {place} show")

    with contextlib.ExitStack() as undone:
        undone.callback(release)
        done = client.call("-p", place, "acquire")
        if done.returncode == 0:
            stack.push(undone.pop_all())
            return True
        guardian.stdin.write(b"not acquired\n")
        if "already acquired" in done.stderr + done.stdout or "was not reserved for" in done.stderr + done.stdout:
            return False
        raise client.error(done, f"cannot acquire {NAME}:{place}")


def _place(client: _Client, name: str, listed: FarmPlace) -> Place:
    resources = client.resources(name)
    ports = [values for kind, values in resources if kind == "NetworkSerialPort"]
    kinds = ", ".join(sorted(kind for kind, _ in resources)) or "nothing"
    if not ports:
        raise PortNotFoundError(
            f"{NAME}:{name} has no serial port: it has {kinds}",
            f"export a NetworkSerialPort or RawSerialPort and match it: {_PAGE}",
        )
    if len(ports) > 1:
        raise AmbiguousBoardError(f"{NAME}:{name} has {len(ports)} serial ports", f"match one: labgrid-client -p {name} show")
    host, port = ports[0].get("host"), ports[0].get("port")
    if not host or type(port) is not int:
        raise FarmError(
            f"the serial port of {NAME}:{name} is not served: {CLIENT} says host {host!r}, port {port!r}",
            f"look at the output of its labgrid-exporter; ser2net must be installed there ({_PAGE})",
        )
    address = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    raw = ports[0].get("protocol") == "raw"
    speed = ports[0].get("speed")
    switched = any(kind.endswith("PowerPort") or kind in _POWER for kind, _ in resources) or "LG_ENV" in os.environ
    return Place(
        name=listed.name,
        kind=listed.kind,
        port=f"socket://{address}" if raw else f"rfc2217://{address}?ign_set_control",
        baud=speed if type(speed) is int and speed > 0 and not raw else 0,
        labels=listed.labels,
        power=client.command_line("-p", name, "power", "{action}") if switched else "",
    )


# --- the client -----------------------------------------------------------------------------------------------------------


def _identity() -> dict[str, str]:
    """Who this process is for the coordinator: nobody else, so that it releases nothing of others."""
    try:
        user = os.environ.get("LG_USERNAME") or getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for the user id
        user = f"user-{os.getuid()}"
    host = os.environ.get("LG_HOSTNAME") or socket.gethostname()
    return {"LG_USERNAME": user, "LG_HOSTNAME": f"{host}.hil-{os.getpid()}-{secrets.token_hex(2)}"}


def _program() -> str:
    named = os.environ.get(CLIENT_VARIABLE)
    program = shutil.which(named or CLIENT) or (None if named else shutil.which(str(LABGRID / "bin" / CLIENT)))
    if program is None:
        what = f"{CLIENT_VARIABLE}={named}, which is no program" if named else f"{CLIENT}, which is not installed"
        by_hand = f"python3 -m venv {LABGRID} && {LABGRID}/bin/pip install labgrid=={VERSION}"
        raise FlashToolMissingError(
            f"a board of a labgrid farm needs {what}",
            f"install it: {'make setup' if IS_CHECKOUT else by_hand}; or name yours: export {CLIENT_VARIABLE}=PATH",
        )
    return program


@dataclass(frozen=True)
class _Client:
    program: str = field(default_factory=_program)
    who: Mapping[str, str] = field(default_factory=_identity)

    @property
    def coordinator(self) -> str:
        return os.environ.get(COORDINATOR_VARIABLE) or COORDINATOR

    @property
    def identity(self) -> str:
        return f"{self.who['LG_HOSTNAME']}/{self.who['LG_USERNAME']}"

    def _environment(self) -> dict[str, str]:
        return {**{name: value for name, value in os.environ.items() if name not in _OTHER_SETTINGS}, **self.who}

    def start(self, command: list[str]) -> Any:
        """A process in a session of its own, which outlives this one."""
        return subprocess.Popen(
            command, env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, bufsize=0,
        )  # fmt: skip

    def command_line(self, *words: str) -> str:
        """A call as a command that anybody may repeat."""
        return shlex.join(["env", *(f"{name}={value}" for name, value in self.who.items()), self.program, *words])

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs the client. Raises FarmError if it does not end."""
        try:
            return self._run(*words, timeout_s=CLIENT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self._silent(f"no answer within {CLIENT_TIMEOUT_S:g} s") from None

    def _run(self, *words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        try:
            return run_group(
                [self.program, *words], timeout_s=timeout_s, env=self._environment(),
                stderr=subprocess.PIPE, text=True, errors="replace",
            )  # fmt: skip
        except OSError as exc:
            raise FarmError(f"{self.program} cannot be started: {exc}", f"install it anew; {_PAGE}") from exc

    def places(self) -> dict[str, FarmPlace]:
        """The places of the coordinator."""
        done = self.call("-v", "places")
        if done.returncode:
            raise self.error(done, "cannot list the places of the farm")
        fields: dict[str, dict[str, str]] = {}
        values: dict[str, str] = {}
        for line in done.stdout.splitlines():
            if head := _HEAD.fullmatch(line):
                fields[head[1]] = values = {}
            elif (match := _FIELD.fullmatch(line)) and fields:
                values.setdefault(match[1], printable(match[2]))
        if done.stdout.strip() and not all("acquired" in values for values in fields.values()):
            raise self._not_understood("its list of places")
        return {name: _listed(name, values) for name, values in fields.items()}

    def resources(self, place: str) -> list[tuple[str, dict[str, Any]]]:
        """What an acquired place consists of: class and parameters."""
        done = self.call("-p", place, "env")
        if done.returncode:
            raise self.error(done, f"cannot use {NAME}:{place}")
        table = parse_yaml(done.stdout.encode(), f"the environment of {NAME}:{place}", f"labgrid-client -p {place} env")
        try:
            listed = table["targets"][place]["resources"]
            return [(str(kind), dict(values)) for resource in listed for kind, values in resource.items()]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._not_understood(f"the environment of {place}") from None

    def reserve(self, place: str) -> str:
        """Joins the queue for a place; the token of the reservation, which lapses a minute after nobody waits for it."""
        done = self.call("reserve", "--shell", f"name={place}")
        token = re.search(r"LG_TOKEN=(\w+)", done.stdout)
        if done.returncode or token is None:
            raise self.error(done, f"cannot wait for {NAME}:{place}")
        return token[1]

    def wait(self, token: str, timeout_s: float) -> None:
        """Returns when it is this reservation's turn, or at the timeout. Raises FarmError: it was canceled."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = self._run("wait", token, timeout_s=max(0.0, timeout_s))
            if done.returncode:
                raise self.error(done, "cannot wait for a place of the farm")

    def error(self, done: subprocess.CompletedProcess[str], what: str) -> FarmError:
        """The error for a call that failed: the client's exit status is 1 whatever the cause."""
        text = done.stderr + done.stdout
        lines = [printable(line) for line in done.stderr.splitlines() if line.strip()]
        if "unexpected grpc error" in text or "HTTP/2" in text or "http1" in text:
            said = re.findall(r'details = "(.*)"|last error: (.*)', done.stderr) or [("", "")]
            return self._not_understood(f"the greeting ({printable(''.join(said[-1]))})")
        if "coordinator is unavailable" in text or "became unavailable" in text or "Could not connect" in text:
            return self._silent(lines[0].partition("last error: ")[2] if lines else "")
        if "orphaned resource" in text or "has no matching remote resource" in text:
            return FarmError(
                f"{what}: nothing that its matches name is exported now: {lines[-1]}",
                f"start its labgrid-exporter; what it exports: labgrid-client resources ({_PAGE})",
            )
        return FarmError(f"{what}: {lines[-1] if lines else f'exit status {done.returncode}'}", f"try it with {CLIENT}; {_PAGE}")

    def _silent(self, why: str) -> FarmError:
        return FarmError(
            f"the labgrid coordinator at {self.coordinator} does not answer" + (f": {why}" if why else ""),
            f"start it: labgrid-coordinator; or name another: export {COORDINATOR_VARIABLE}=HOST:20408 ({_PAGE})",
        )

    def _not_understood(self, what: str) -> FarmError:
        return FarmError(
            f"{self.program} does not understand {what} of {self.coordinator}: a coordinator of another version, or none at all",
            f"install the coordinator's version of labgrid, and name its client: export {CLIENT_VARIABLE}=PATH ({_PAGE})",
        )


def _reservation(token: str) -> str:
    """Who holds a place that is kept for a reservation."""
    return _RESERVATION + token if token else ""


def _listed(name: str, values: Mapping[str, str]) -> FarmPlace:
    tags = dict(tag.partition("=")[::2] for tag in values.get("tags", "").split(", ") if tag)
    host, _, user = ("" if values["acquired"] == "None" else values["acquired"]).partition("/")
    reserved = values.get("reservation", "")
    since = None
    with contextlib.suppress(KeyError, ValueError, OverflowError):
        since = datetime.fromisoformat(values["changed"]).timestamp()
    return FarmPlace(
        name=f"{NAME}:{name}",
        kind=tags.pop(TYPE_TAG, "serial"),
        labels=tuple(f"{key}={value}" for key, value in tags.items()),
        held_by=f"{user} on {host}" if host else _reservation(reserved),
        since=since if host else None,
    )
