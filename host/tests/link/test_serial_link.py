import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import tty

import pytest
import serial
import serial.rfc2217

from balance_hil.boards import connect
from balance_hil.errors import (
    CableUnpluggedError,
    LinkError,
    PortBusyError,
    PortNotFoundError,
    PortOpenError,
    PortPermissionError,
)
from balance_hil.link import list_serial_ports, open_link, ports, serial_link

DEADLINE_S = 20.0


@pytest.fixture
def terminal():
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    for fd in (master, slave):
        with contextlib.suppress(OSError):
            os.close(fd)


def read_exactly(link, count):
    data = b""
    while len(data) < count:
        piece = link.read(DEADLINE_S)
        assert piece, f"only {data!r} arrived"
        data += piece
    return data


@pytest.mark.parametrize("baud", [9600, 115_200, 921_600, 250_000])
def test_bytes_pass_unchanged_in_both_directions(terminal, baud):
    master, name = terminal
    link = open_link(name, baud)
    payload = bytes(range(256))
    link.write(payload)
    assert os.read(master, 1024) == payload
    os.write(master, payload)
    assert read_exactly(link, 256) == payload
    assert link.description == name
    link.close()
    link.close()


def test_read_returns_nothing_on_timeout(terminal):
    link = open_link(terminal[1])
    assert link.read(0.0) == b""
    assert link.read(-1.0) == b""
    assert link.read(0.001) == b""
    link.close()


def test_first_byte_wakes_the_reader(terminal):
    master, name = terminal
    link = open_link(name)
    threading.Timer(0.02, os.write, (master, b"x")).start()
    assert link.read(DEADLINE_S) == b"x"
    link.close()


def test_long_write_to_a_slow_reader_arrives_whole(terminal):
    master, name = terminal
    link = open_link(name)
    payload = os.urandom(100_000)
    received = bytearray()

    def drain():
        while len(received) < len(payload):
            received.extend(os.read(master, 4096))

    reader = threading.Thread(target=drain)
    reader.start()
    link.write(payload)
    reader.join(DEADLINE_S)
    assert bytes(received) == payload
    link.close()


def test_a_far_end_that_never_reads_is_an_error(terminal, monkeypatch):
    monkeypatch.setattr(serial_link, "WRITE_TIMEOUT_S", 0.01)
    link = open_link(terminal[1])
    with pytest.raises(LinkError, match="accepted no byte") as caught:
        link.write(bytes(1_000_000))
    assert "reset the board" in caught.value.hint
    link.close()


@pytest.fixture
def rfc2217_server():
    """URL of a server that agrees to everything, and reads nothing once that is done (``done`` is set)."""
    done = threading.Event()

    def serve():
        connection, _ = listener.accept()
        connections.append(connection)
        manager = serial.rfc2217.PortManager(serial.serial_for_url("loop://"), connection_of(connection))
        connection.settimeout(0.05)
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                list(manager.filter(connection.recv(1024)))

    def connection_of(connection):
        return type("Connection", (), {"write": staticmethod(connection.sendall)})

    connections = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server = threading.Thread(target=serve)
        server.start()
        yield f"rfc2217://127.0.0.1:{listener.getsockname()[1]}", done
        done.set()
        server.join()
    connections[0].close()


def test_a_write_to_an_rfc2217_server_that_never_reads_has_our_bound(rfc2217_server, monkeypatch):
    url, done = rfc2217_server
    link = open_link(url)
    done.set()
    monkeypatch.setattr(serial_link, "WRITE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(serial_link, "SLOWEST_BYTES_PER_S", 1e9)
    with pytest.raises(LinkError, match="accepted no byte"):
        link.write(bytes(100_000_000))
    assert link._device._socket.gettimeout() == pytest.approx(0.2), "pyserial's own is 5 s"
    link.close()


def test_cable_pulled_while_reading_and_writing(terminal):
    master, name = terminal
    link = open_link(name)
    os.close(master)
    with pytest.raises(CableUnpluggedError, match=f"{name} vanished"):
        link.read(DEADLINE_S)
    with pytest.raises(CableUnpluggedError):
        link.write(b"x")
    link.close()


def test_a_closed_link_reads_as_unplugged(terminal):
    link = open_link(terminal[1])
    link.close()
    with pytest.raises(CableUnpluggedError):
        link.read(0)


def test_no_such_port_names_the_ports_that_exist(monkeypatch):
    port = ports.SerialPort(
        device="/dev/ttyACM7", description="", vid=None, pid=None, serial_number=None, accessible=True, group="dialout"
    )
    monkeypatch.setattr(ports, "list_serial_ports", lambda: [port])
    with pytest.raises(PortNotFoundError, match="no such port: /dev/ttyNOPE") as caught:
        open_link("/dev/ttyNOPE")
    assert "/dev/ttyACM7" in caught.value.hint
    assert "hil boards" in caught.value.hint
    monkeypatch.setattr(ports, "list_serial_ports", list)
    with pytest.raises(PortNotFoundError) as caught:
        open_link("/dev/ttyNOPE")
    assert "no serial port is connected" in caught.value.hint


def test_busy_port_names_its_holder(terminal):
    name = terminal[1]
    program = f"import serial, sys; p = serial.Serial({name!r}, exclusive=True); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(PortBusyError, match=rf"busy: .*process {holder.pid}\)"):
            open_link(name)
    finally:
        holder.communicate(b"", timeout=DEADLINE_S)
    open_link(name).close()


def refuse(code):
    def fail(*args, **kwargs):
        raise serial.SerialException(code, os.strerror(code))

    return fail


def test_permission_denied_names_the_group_and_the_remedy(terminal, monkeypatch):
    monkeypatch.setattr(serial, "serial_for_url", refuse(errno.EACCES))
    monkeypatch.setattr(serial_link, "owning_group", lambda device: "dialout")
    with pytest.raises(PortPermissionError, match="group dialout") as caught:
        open_link(terminal[1])
    assert "sudo usermod -aG dialout $USER" in caught.value.hint
    monkeypatch.setattr(serial_link, "owning_group", lambda device: "root")
    with pytest.raises(PortPermissionError, match="only root") as caught:
        open_link(terminal[1])
    assert "udev" in caught.value.hint


def test_a_port_without_hardware_says_so(terminal, monkeypatch):
    monkeypatch.setattr(serial, "serial_for_url", refuse(errno.EIO))
    with pytest.raises(PortOpenError, match="no device answers behind it"):
        open_link(terminal[1])


def test_a_file_is_not_a_serial_port(tmp_path):
    plain = tmp_path / "file"
    plain.touch()
    for path in (plain, tmp_path):
        with pytest.raises(PortOpenError, match="not a serial port"):
            open_link(str(path))


@pytest.mark.parametrize(
    "url", ["nonsense://x", "socket://127.0.0.1", "socket://[::1", "socket://a..b:1", "socket://x:99999", "rfc2217://127.0.0.1:1"]
)
def test_a_bad_url_is_a_port_open_error(url):
    with pytest.raises(PortOpenError):
        open_link(url)
    with pytest.raises(PortOpenError):
        connect("serial", port=url)


def test_an_impossible_baud_rate_is_a_port_open_error(terminal):
    with pytest.raises(PortOpenError, match="cannot open"):
        open_link(terminal[1], -3)


def test_socket_url():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        link = open_link(url)
        peer, _ = server.accept()
        link.write(b"ping")
        assert peer.recv(16) == b"ping"
        peer.sendall(b"pong")
        assert read_exactly(link, 4) == b"pong"
        peer.close()
        with pytest.raises(CableUnpluggedError):
            link.read(DEADLINE_S)
        link.close()
    with pytest.raises(PortOpenError, match="cannot open") as caught:
        open_link(url)
    assert "server is running" in caught.value.hint


def test_what_a_server_says_first_is_read_and_its_connection_is_closed_whoever_closes_first():
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = threading.Thread(target=lambda: server.accept()[0].sendall(b"Port already in use"))
        said.start()
        link = open_link(f"socket://127.0.0.1:{server.getsockname()[1]}")
        said.join()
        assert read_exactly(link, 19) == b"Port already in use"
        with pytest.raises(CableUnpluggedError):
            link.read(DEADLINE_S)
        descriptor = link._device.fileno()
        link.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_url_without_a_descriptor():
    link = open_link("loop://")
    assert link.read(0.0) == b""
    link.write(b"hello")
    assert read_exactly(link, 5) == b"hello"
    link.close()
    with pytest.raises(CableUnpluggedError):
        link.read(0.0)


def test_listed_ports_have_names():
    assert all(port.device for port in list_serial_ports())
    assert ports.owning_group("/dev/null") == "root"
    assert ports.owning_group("/dev/ttyNOPE") is None
