"""Two users, one board."""

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time

import pytest

from balance_hil.boards import connect, find_definition, reservation
from balance_hil.boards.kinds.machines import emulate
from balance_hil.boards.reservation import Owner, reservations, reserved
from balance_hil.errors import ModelMismatchError, PortBusyError

from .holder import another_user

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forked processes and pseudo-terminals")
HIL = [sys.executable, "-c", "from balance_hil.cli import main; main()"]
NOBODY = 65534
LOCKS = reservation.LOCKS


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """A lock folder of the test's own; its children inherit it."""
    monkeypatch.setattr(reservation, "LOCKS", tmp_path / "locks")
    return tmp_path / "locks"


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "ttyACM7"
    path.touch()
    return path


def test_a_held_port_names_its_owner_and_what_to_do(device):
    with another_user(str(device)) as (process, _), pytest.raises(PortBusyError) as caught, reserved(str(device)):
        pass
    me = pwd.getpwuid(os.getuid()).pw_name
    assert f"{device} is held by {me} (process {process.pid} on {socket.gethostname()}: " in caught.value.message
    assert " s ago" in caught.value.message
    assert caught.value.hint == "wait for it: --wait 60; who holds what: hil boards"


def test_a_link_to_a_port_is_the_same_port(device, tmp_path):
    by_id = tmp_path / "usb-Teensyduino_12345-if00"
    by_id.symlink_to(device)
    with another_user(str(device)), pytest.raises(PortBusyError), reserved(str(by_id)):
        pass
    with another_user(str(by_id)), pytest.raises(PortBusyError), reserved(str(device)):
        pass
    with another_user(str(device)), reserved(str(device.with_name("ttyACM8"))):
        pass


def test_a_server_has_one_reservation_whatever_its_name():
    with (
        another_user("socket://localhost:4000"),
        pytest.raises(PortBusyError),
        reserved("rfc2217://127.0.0.1:4000?logging=debug"),
    ):
        pass
    with another_user("socket://localhost:4000"), reserved("socket://localhost:4001"):
        pass


def test_the_kernel_frees_a_port_whose_owner_is_killed(device):
    with another_user(str(device)) as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert reservations() == []
        with reserved(str(device)):
            assert [owner.pid for owner in reservations()] == [os.getpid()]


def test_a_port_is_waited_for(device):
    said = []

    def release(line):
        said.append(line)
        pipe.send(0.5)

    with another_user(str(device)) as (process, pipe), reserved(str(device), wait_s=60.0, progress=release):
        process.join()
    assert said[0].startswith(f"waiting up to 60 s for {device}, held by ")


def test_a_wait_ends(device):
    with another_user(str(device)), pytest.raises(PortBusyError, match="is held by"), reserved(str(device), wait_s=0.3):
        pass


def test_one_process_may_reserve_a_port_repeatedly(device, locks):
    with reserved(str(device)):
        with reserved(str(device)):
            pass
        assert len(reservations()) == 1  # still held
    assert reservations() == []
    assert list(locks.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_user_of_this_computer_sees_and_takes_a_reservation(device, tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "pytest-", "popen-")):
            folder.chmod(0o755)
    with another_user(str(device)) as (process, _):
        os.kill(process.pid, signal.SIGKILL)  # folder and file belong to root now
        process.join()
    with another_user(str(device), NOBODY) as (process, _):
        assert [(owner.user, owner.pid) for owner in reservations()] == [("nobody", process.pid)]
        with pytest.raises(PortBusyError, match="is held by nobody"), reserved(str(device)):
            pass


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 5000, b'{"port": 1}', b'{"since": 1e300}', b"[]"])
def test_a_damaged_lock_file_is_held_by_somebody(device, locks, content):
    with another_user(str(device)):
        (path,) = locks.iterdir()
        path.write_bytes(content)
        assert reservations() == []
        with pytest.raises(PortBusyError, match="is held by another program"), reserved(str(device)):
            pass


def test_what_another_user_wrote_is_printed_as_literal_text(device, locks):
    with another_user(str(device)):
        (path,) = locks.iterdir()
        owner = json.loads(path.read_text()) | {"user": "\x1b[2Jalice", "command": "x" * 5000}
        path.write_text(json.dumps(owner)[:4096])
        assert reservations() == []  # longer than a signature may be
        path.write_text(json.dumps(owner | {"command": "x" * 999}))
        (seen,) = reservations()
    assert seen.user == r"\x1b[2Jalice"
    assert len(seen.command) == 200


@pytest.mark.parametrize(("ago_s", "text"), [(12, "12 s"), (300, "5 min"), (2 * 3600, "2 h"), (3 * 86400, "3 d"), (-5, "0 s")])
def test_age(ago_s, text):
    assert Owner(port="", user="", host="", pid=1, command="", since=time.time() - ago_s).age == text


def test_a_board_holds_its_port_until_it_is_closed(linear_bundle, ppo_bundle):
    machine = emulate(find_definition("native"), ppo_bundle, engine="int8")
    with contextlib.closing(machine):
        port = machine.start_unopened()
        with connect("serial", ppo_bundle, port=port) as board:
            assert [owner.port for owner in reservations()] == [board.port] == [port]
        assert reservations() == []
        with pytest.raises(ModelMismatchError):
            connect("serial", linear_bundle, port=port)
        assert reservations() == []
    with connect("native", ppo_bundle, engine="int8"):
        assert reservations() == []  # nobody else can open it


def test_the_command_line(device, monkeypatch, ppo_bundle):
    monkeypatch.setattr(reservation, "LOCKS", LOCKS)  # the program's own
    run = [*HIL, "run", str(ppo_bundle.path), "--board", "serial", "--port", str(device), "--no-record"]
    with another_user(str(device)) as (process, _):
        ended = subprocess.run(run, capture_output=True, text=True)
        listed = subprocess.run([*HIL, "boards", "--json"], capture_output=True, text=True, check=True)
        shown = subprocess.run([*HIL, "boards"], capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "250"})
    assert ended.returncode == 3, ended.stderr
    assert f"{device} is held by" in ended.stderr
    assert f"process {process.pid} on" in ended.stderr
    assert [owner["port"] for owner in json.loads(listed.stdout)["reservations"] if owner["pid"] == process.pid] == [str(device)]
    line = next(line for line in shown.stdout.splitlines() if str(process.pid) in line)
    assert line.startswith(str(device))
    assert line.split()[1] == pwd.getpwuid(os.getuid()).pw_name
