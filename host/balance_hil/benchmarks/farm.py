"""``hil bench farm``: the round trip through ser2net, which farms put in front of a port, beside the port itself.

Native boards, one for each way, take turns, so that a slow phase of the computer affects all of them. A round trip goes from
sending an observation to receiving the action.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.benchmarks import row
from balance_hil.boards import Board, connect, find_board
from balance_hil.boards.kinds.machines import emulate
from balance_hil.bundle import Bundle
from balance_hil.errors import FarmError, FlashToolMissingError, PortBusyError, PortOpenError
from balance_hil.paths import IS_CHECKOUT, MODELS
from balance_hil.processes import popen

TURNS = 10
STEPS = 100
PATIENCE_S = 20.0
LOOK_INTERVAL_S = 0.05
DIRECT = "the port itself"
NO_DELAY, TELNET = "    chardelay: false\n", "telnet(rfc2217),"
TUNED = "raw TCP, nodelay, no chardelay"
RFC2217 = "rfc2217://127.0.0.1:{}?ign_set_control"
# name: accepter, options, URL of the board
SETTINGS = {
    TUNED: ("tcp(nodelay)", NO_DELAY, "socket://127.0.0.1:{}"),
    "raw TCP, ser2net's defaults": ("tcp", "", "socket://127.0.0.1:{}"),
    "RFC2217, nodelay, no chardelay": (f"{TELNET}tcp(nodelay)", NO_DELAY, RFC2217),
    "RFC2217, as labgrid starts it": (f"{TELNET}tcp", "", RFC2217),
}


def run(turns: int = TURNS) -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio. Raises FlashToolMissingError, FarmError."""
    program = ser2net_program()
    bundle = Bundle.load(MODELS / "ppo")
    observations = np.asarray(bundle.golden("observations")[:STEPS], np.float32)
    measured: dict[str, list[float]] = {DIRECT: [], **{name: [] for name in SETTINGS}}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        devices = []
        for _ in measured:
            machine = stack.enter_context(contextlib.closing(emulate(find_board("native"), bundle, engine="int8")))
            devices.append(machine.start_unopened())
        settings = zip(SETTINGS.values(), devices[1:], strict=True)
        connections = [connection(accepter, device, options) for (accepter, options, _), device in settings]
        tcp_ports = stack.enter_context(ser2net(program, folder, connections))
        urls = [url.format(port) for (_, _, url), port in zip(SETTINGS.values(), tcp_ports, strict=True)]
        boards = [stack.enter_context(_opened(bundle, port)) for port in (devices[0], *urls)]
        for _ in range(turns):
            for board, times_ms in zip(boards, measured.values(), strict=True):
                for observation in observations:
                    start = time.perf_counter()
                    board.infer(observation)
                    times_ms.append(1e3 * (time.perf_counter() - start))
    return list(_rows(measured))


def _opened(bundle: Bundle, port: str) -> Board:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return connect("native", bundle, port=port)
        except (PortBusyError, PortOpenError):  # ser2net has not yet closed what looked whether it listens
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK_INTERVAL_S)


def _rows(measured: Mapping[str, list[float]]) -> Iterator[dict[str, Any]]:
    direct_ms = statistics.median(measured[DIRECT])
    for name, times_ms in measured.items():
        median_ms = statistics.median(times_ms)
        versus = () if name == DIRECT else (DIRECT, median_ms / direct_ms)
        yield row(name, "round trip p50", median_ms, "ms", *versus)
        yield row(name, "round trip p99", float(np.percentile(times_ms, 99)), "ms")
        if name != DIRECT:
            yield row(name, "more than the port, p50", median_ms - direct_ms, "ms")


def ser2net_program() -> str:
    """The path of ser2net. Raises FlashToolMissingError."""
    found = shutil.which("ser2net", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if found is None:
        raise FlashToolMissingError(
            "ser2net, which serves serial ports over the network, is not installed",
            f"install it: {'make setup' if IS_CHECKOUT else 'apt-get install ser2net'}",
        )
    return found


def connection(accepter: str, device: str, options: str = NO_DELAY) -> str:
    """An entry of ser2net's configuration; ``{port}`` stands for its TCP port, ``{number}`` for its number."""
    return (
        f"connection: &board{{number}}\n  accepter: {accepter},127.0.0.1,{{port}}\n"
        f"  connector: serialdev,{device},115200n81,local\n  options:\n    max-connections: 1\n{options}"
    )


@contextlib.contextmanager
def ser2net(program: str, folder: Path, connections: list[str]) -> Iterator[list[int]]:
    """ser2net on loopback, with its files in ``folder``; yields the TCP port of each connection. Raises FarmError."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in connections]
        tcp_ports: list[int] = [server.getsockname()[1] for server in servers]
    numbered = zip(connections, tcp_ports, strict=True)
    config, log = folder / "ser2net.yaml", folder / "ser2net.log"
    entries = (text.format(number=number, port=port) for number, (text, port) in enumerate(numbered))
    config.write_text("%YAML 1.1\n---\n" + "".join(entries))
    with log.open("wb") as file:
        process = popen([program, "-n", "-c", config, "-P", folder / "ser2net.pid"], stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not all(map(_listens, tcp_ports)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_INTERVAL_S)
            if process.returncode is not None or time.monotonic() > deadline:
                raise FarmError(f"ser2net does not start: {log.read_text()[-300:]}", "try it: ser2net -n -c FILE")
        yield tcp_ports
    finally:
        process.kill()
        process.wait()


def _listens(tcp_port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", tcp_port)) == 0
