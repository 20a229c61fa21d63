"""QEMU's machine protocol: JSON lines over a socket, one command at a time."""

from __future__ import annotations

import json
import socket
from typing import Any

from balance_hil.errors import CableUnpluggedError

TIMEOUT_S = 10.0


class Qmp:
    """The control connection to one QEMU process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(TIMEOUT_S)
        self._lines = connection.makefile("rb")
        self._greeted = False

    def execute(self, command: str) -> Any:
        """Runs a command without arguments and returns its result.

        Raises:
            CableUnpluggedError: QEMU has ended, does not answer, or reports an error.
        """
        if not self._greeted:
            self._greeted = True
            self._line()  # QEMU sends its greeting first
            self._run("qmp_capabilities")
        return self._run(command)

    def _run(self, command: str) -> Any:
        try:
            self._connection.sendall(json.dumps({"execute": command}).encode() + b"\n")
        except OSError as exc:
            raise _gone(command, exc) from exc
        while True:
            reply = self._line()
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise _gone(command, reply["error"].get("desc"))
            # anything else is an event

    def _line(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
            reply = json.loads(line)
        except (OSError, ValueError) as exc:  # ValueError: end of the stream
            raise _gone("it", exc) from exc
        return dict(reply)

    def close(self) -> None:
        """Closes the connection; may be called twice."""
        self._lines.close()
        self._connection.close()


def _gone(command: str, cause: object) -> CableUnpluggedError:
    return CableUnpluggedError(f"QEMU did not execute {command!r}: {cause}", "it ended or hangs: start the board again")
