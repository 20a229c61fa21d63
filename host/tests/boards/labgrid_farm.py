"""A labgrid farm on loopback: coordinator and exporter. It ends with the test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from balance_hil.boards.kinds.labgrid import CLIENT
from balance_hil.paths import LABGRID
from balance_hil.processes import popen

PATIENCE_S = 60.0
LOOK_INTERVAL_S = 0.05


def program(name: str) -> str:
    """A program of labgrid; skips the test where it is not installed."""
    found = shutil.which(str(LABGRID / "bin" / name)) or shutil.which(name)
    if found is None:
        pytest.skip(f"labgrid is not installed in {LABGRID}: make setup")
    return found


@dataclass
class Farm:
    """A running farm."""

    address: str
    program: str  # that is used like labgrid-client
    switched: list[tuple[str, str]]  # what the power switches were told: path and value

    def client(self, *words: str, user: str = "carol", host: str = "desk") -> str:
        """Runs labgrid-client as somebody else; returns what it prints."""
        environment = {**os.environ, "LG_COORDINATOR": self.address, "LG_USERNAME": user, "LG_HOSTNAME": host}
        return subprocess.run([self.program, *words], env=environment, capture_output=True, text=True, check=True).stdout

    def reserve(self, place: str, user: str) -> str:
        """Makes a reservation as somebody else; returns its token."""
        return self.client("reserve", "--shell", f"name={place}", user=user).strip().partition("=")[2]

    def holder(self, place: str) -> str:
        """Who has a place, as labgrid says it: "desk/carol", or "None"."""
        shown = self.client("-p", place, "show")
        return next(line.partition(": ")[2] for line in shown.splitlines() if line.startswith("  acquired: "))


@contextlib.contextmanager
def farm(folder: Path, places: Mapping[str, Mapping[str, Any]], tags: Mapping[str, str]) -> Iterator[Farm]:
    """A coordinator and an exporter.

    Args:
        folder: for their files.
        places: name to class of a resource to its parameters, of which "POWER" as a host is this farm's power switches.
        tags: of every place.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"127.0.0.1:{port}"
    matches = {name: {"tags": tags, "matches": [{"exporter": "bench", "group": name, "cls": "*"}]} for name in places}
    (folder / "places.yaml").write_text(json.dumps(matches))  # what the coordinator keeps there: a second less for each place
    switched: list[tuple[str, str]] = []
    with _power_switches(switched) as power, contextlib.ExitStack() as stack:
        config = folder / "exporter.yaml"
        exported = {name: resources for name, resources in places.items() if resources}
        config.write_text(json.dumps(exported).replace("POWER", power))
        stack.enter_context(_running([program("labgrid-coordinator"), "-l", address], folder, port))
        command = ["labgrid-exporter", "-c", address, "-n", "bench", "--hostname", "127.0.0.1", str(config)]
        stack.enter_context(_running([program(command[0]), *command[1:]], folder))
        it = Farm(address, stack.enter_context(_quick_client(folder)), switched)
        deadline = time.monotonic() + PATIENCE_S
        while it.client("resources").count("bench/") < sum(map(len, exported.values())):
            assert time.monotonic() < deadline, (folder / "labgrid-exporter.log").read_text()
        yield it


@contextlib.contextmanager
def _quick_client(folder: Path) -> Iterator[str]:
    """The client of ``labgrid_server.py``."""
    client = folder / CLIENT
    python = Path(program(CLIENT)).with_name("python")
    command = [str(python), str(Path(__file__).with_name("labgrid_server.py")), str(folder / "client.sock"), str(client)]
    server = popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        yield str(client)
    finally:
        server.kill()
        server.communicate()


@contextlib.contextmanager
def _running(command: list[str], folder: Path, *tcp_ports: int) -> Iterator[None]:
    """A server, once it listens on its ports."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as file:
        process = popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE_S
        for tcp_port in tcp_ports:
            while not _listens(tcp_port):
                assert time.monotonic() < deadline, log.read_text()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_INTERVAL_S)
                    raise AssertionError(log.read_text())
        yield
    finally:
        process.kill()
        process.wait()


def _listens(tcp_port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", tcp_port), PATIENCE_S).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _power_switches(switched: list[tuple[str, str]]) -> Iterator[str]:
    class Switch(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            switched.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Switch) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{{index}}"
        server.shutdown()
