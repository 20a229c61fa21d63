"""Links over pyserial: device nodes, pseudo-terminals and URLs (``socket://``, ``rfc2217://``).

pyserial opens and configures a serial port; bytes then move through its file descriptor, where ``select`` wakes the reader with
the first byte (25 us on a pseudo-terminal). Ports without a descriptor (``rfc2217://``, ``loop://``) go through pyserial's own
read. ``socket://`` is opened here: pyserial would discard what the server says first, without end if it never stops, and leave
the descriptor open if the server closes first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import serial

from balance_hil.errors import (
    CableUnpluggedError,
    HarnessError,
    LinkError,
    PortBusyError,
    PortNotFoundError,
    PortOpenError,
    PortPermissionError,
)
from balance_hil.link.base import Link
from balance_hil.link.ports import existing_ports_hint, holder_of, list_serial_ports, owning_group

DEFAULT_BAUD = 921_600
CONNECT_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 1.0  # longer without progress means that nothing reads at the far end
SLOWEST_BYTES_PER_S = 960  # 9600 baud: a write that is slower has failed, too
READ_CHUNK = 65_536
# select cannot wait for a port without a descriptor, and pyserial renegotiates an rfc2217 port whenever its timeout changes. So
# the timeout is fixed and short, and a longer wait is a loop.
GENERIC_READ_QUANTUM_S = 0.001


def open_link(port: str, baud: int = DEFAULT_BAUD) -> Link:
    """Opens a serial device, a pseudo-terminal or a pyserial URL, for this process alone.

    Raises:
        PortNotFoundError, PortBusyError, PortPermissionError: as named.
        PortOpenError: any other cause: not a serial port, connection refused, unknown URL, unsupported baud rate.
    """
    if port.startswith("socket://"):
        return _open_socket(port)
    is_url = "://" in port
    timeout_s = GENERIC_READ_QUANTUM_S if is_url else 0.0
    try:
        device = serial.serial_for_url(port, baudrate=baud, timeout=timeout_s, exclusive=None if is_url else True)
    except serial.SerialException as exc:
        raise _open_error(port, exc) from exc
    except (ValueError, OverflowError, OSError) as exc:
        raise PortOpenError(f"cannot open {port}: {exc}", "pass a device (/dev/ttyACM0) or a URL (socket://host:port)") from exc
    with contextlib.suppress(ValueError, OSError, AttributeError, NotImplementedError):
        device.set_low_latency_mode(True)  # FTDI chips otherwise buffer bytes for 16 ms; other drivers do not support it
    descriptor = _descriptor(device)
    return GenericLink(device, port) if descriptor is None else DescriptorLink(device, descriptor, port)


def _open_socket(port: str) -> Link:
    try:
        url = urlsplit(port)
        if not url.hostname or not url.port:
            raise ValueError("it has no host or no port")
        connection = socket.create_connection((url.hostname, url.port), CONNECT_TIMEOUT_S)
    except (ValueError, OSError) as exc:
        raise PortOpenError(f"cannot open {port}: {exc}", "pass socket://host:port; check that the server is running") from exc
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return DescriptorLink(connection, connection.fileno(), port)


class DescriptorLink:
    """A pyserial port, or anything else with ``close()``, with a file descriptor that ``select`` can wait for.

    Args:
        device: closed with the link.
        descriptor: bytes are read from it; it does not block.
        description: see ``Link``.
        write_descriptor: bytes are written to it; None: to ``descriptor``.
    """

    def __init__(self, device: Any, descriptor: int, description: str, write_descriptor: int | None = None) -> None:
        self.description = description
        self._device = device
        self._waits_on = [descriptor]
        self._writes_to = [descriptor if write_descriptor is None else write_descriptor]

    def write(self, data: bytes) -> None:
        """See ``Link.write``."""
        try:
            sent = os.write(self._writes_to[0], data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise _unplugged(self.description, exc) from exc
        if sent < len(data):
            self._write_rest(data[sent:])

    def _write_rest(self, data: bytes) -> None:
        deadline = time.monotonic() + _write_bound_s(data)
        while data:
            left_s = min(WRITE_TIMEOUT_S, deadline - time.monotonic())
            if left_s <= 0 or not select.select([], self._writes_to, [], left_s)[1]:
                raise _stuck(self.description)
            try:
                data = data[os.write(self._writes_to[0], data) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise _unplugged(self.description, exc) from exc

    def read(self, timeout_s: float) -> bytes:
        """See ``Link.read``."""
        try:
            readable, _, _ = select.select(self._waits_on, [], [], timeout_s if timeout_s > 0 else 0)
            if not readable:
                return b""
            data = os.read(self._waits_on[0], READ_CHUNK)
        except BlockingIOError:
            return b""
        except (OSError, ValueError) as exc:  # ValueError: closed meanwhile
            raise _unplugged(self.description, exc) from exc
        if not data:  # readable and empty: the far end closed
            raise _unplugged(self.description, None)
        return data

    def close(self) -> None:
        """See ``Link.close``."""
        with contextlib.suppress(OSError, serial.SerialException):
            self._device.close()
        self._waits_on = self._writes_to = [-1]


class GenericLink:
    """A pyserial port without a descriptor: a wait overshoots by up to ``GENERIC_READ_QUANTUM_S``."""

    def __init__(self, device: Any, description: str) -> None:
        self.description = description
        self._device = device

    def write(self, data: bytes) -> None:
        """See ``Link.write``."""
        with contextlib.suppress(AttributeError):  # rfc2217 refuses a write timeout, and waits for 5 s
            self._device._socket.settimeout(_write_bound_s(data))
        try:
            self._device.write(data)
        except (serial.SerialException, OSError) as exc:
            if isinstance(exc.__context__, TimeoutError):
                raise _stuck(self.description) from exc
            raise _unplugged(self.description, exc) from exc

    def read(self, timeout_s: float) -> bytes:
        """See ``Link.read``."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                data = bytes(self._device.read(1))
                if data:
                    return data + bytes(self._device.read(self._device.in_waiting))
            except (serial.SerialException, OSError, TypeError) as exc:  # TypeError: pyserial after close()
                raise _unplugged(self.description, exc) from exc
            if time.monotonic() >= deadline:
                return b""

    def close(self) -> None:
        """See ``Link.close``."""
        with contextlib.suppress(OSError, serial.SerialException):
            self._device.close()


def _write_bound_s(data: bytes) -> float:
    return WRITE_TIMEOUT_S + len(data) / SLOWEST_BYTES_PER_S


def _descriptor(device: Any) -> int | None:
    try:
        descriptor = device.fileno()
    except (OSError, AttributeError, NotImplementedError):  # io.UnsupportedOperation is an OSError
        return None
    return int(descriptor)


def _open_error(port: str, exc: serial.SerialException) -> HarnessError:
    """The distinct error for one failure to open ``port``."""
    code = exc.errno
    if "://" in port:
        return PortOpenError(f"cannot open {port}: {exc}", "check that the server is running, and its host and port")
    if code == errno.ENOENT or not (Path(port).exists() or port in [there.device for there in list_serial_ports()]):
        return PortNotFoundError(f"no such port: {port}", existing_ports_hint())
    busy_on_windows = sys.platform == "win32" and "PermissionError" in str(exc)  # pyserial gives no errno
    if code in (errno.EBUSY, errno.EAGAIN) or busy_on_windows:
        holder = holder_of(port) or "another program"
        return PortBusyError(f"{port} is busy: {holder} has it open", "close that program (a serial monitor?) and try again")
    if code in (errno.EACCES, errno.EPERM):
        return _permission_error(port)
    if code in (errno.ENODEV, errno.ENXIO, errno.EIO):
        return PortOpenError(f"{port} exists but no device answers behind it", "plug the board in again, then: hil boards")
    return PortOpenError(f"{port} is not a serial port ({exc})", existing_ports_hint())


def _permission_error(port: str) -> PortPermissionError:
    group = owning_group(port)
    if group is None or group == "root":
        return PortPermissionError(
            f"no permission to open {port}: only root has it",
            "add a udev rule that gives the port to the group dialout; platformio has one: 99-platformio-udev.rules",
        )
    return PortPermissionError(
        f"no permission to open {port}: it belongs to the group {group}, and you are not a member",
        f"sudo usermod -aG {group} $USER, then log out and in again",
    )


def _unplugged(description: str, exc: BaseException | None) -> CableUnpluggedError:
    cause = f" ({exc})" if exc is not None else ""
    return CableUnpluggedError(
        f"{description} vanished while it was in use{cause}", "check the cable and the board's power, then: hil boards"
    )


def _stuck(description: str) -> LinkError:
    return LinkError(
        f"{description} accepted no byte for {WRITE_TIMEOUT_S:g} s: nothing reads at the far end",
        "reset the board: its firmware may have stopped reading the port",
    )
