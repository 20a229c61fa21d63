import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serial

from balance_hil import cli, link
from balance_hil.boards import connect, held, reservation
from balance_hil.boards.kinds import native as native_module
from balance_hil.cli import boards as boards_command
from balance_hil.cli import emulate as emulate_command
from balance_hil.errors import MissingExtraError, ModelMismatchError, PortBusyError
from balance_hil.link import SerialPort
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import actor

from ..boards.holder import another_user

DEADLINE_S = 60.0
HIL = [sys.executable, "-c", "from balance_hil.cli import main; main()"]


@pytest.fixture
def hil(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hil", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as exited:
            code = exited.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def a_teensy(monkeypatch):
    port = SerialPort(
        device="/dev/ttyACM0",
        description="USB Serial",
        vid=0x16C0,
        pid=0x0483,
        serial_number="12345",
        accessible=False,
        group="dialout",
    )
    monkeypatch.setattr(boards_command, "list_serial_ports", lambda: [port])


def test_boards_matches_ports_and_definitions(hil, a_teensy):
    code, out, _ = hil("boards", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["ports"][0]["boards"] == ["teensy41"]
    by_name = {board["name"]: board for board in document["boards"]}
    assert by_name["teensy41"]["ports"] == ["/dev/ttyACM0"]
    assert by_name["teensy41"]["available"] is True
    assert by_name["native"]["kind"] == "native"


def test_boards_says_what_a_person_may_not_open(hil, a_teensy):
    code, out, err = hil("boards")
    assert code == 0
    assert "16c0:0483" in out
    assert "teensy41" in out
    assert "you may not open /dev/ttyACM0: sudo usermod -aG dialout" in err


def test_boards_says_what_an_emulated_board_misses(hil, a_teensy, monkeypatch):
    def refuse(module, extra):
        raise MissingExtraError("this needs the Python package 'tflite_micro'", "pip install 'balance-hil[int8]'")

    monkeypatch.setattr(native_module, "require", refuse)
    _, out, err = hil("boards")
    assert "not available" in out
    assert "tflite_micro" in err
    assert "balance-hil[int8]" in err


BENCH = """
[left]
kind = "native"
labels = ["fast"]
power = "echo {action}"

[right]
kind = "native"
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(reservation, "LOCKS", tmp_path / "locks")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boards.toml").write_text(BENCH)


def test_boards_shows_the_bench_and_who_has_what(hil, a_teensy, bench, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with held("left"):
        code, out, _ = hil("boards", "--json")
        _, shown, _ = hil("boards")
    assert code == 0
    document = json.loads(out)
    left, right = document["bench"]
    assert (left["name"], left["labels"], left["power"], left["held_by"]["pid"]) == ("left", ["fast"], True, os.getpid())
    assert right["held_by"] is None
    assert "held by" in shown
    assert "free" in shown


def test_discover_writes_the_map_and_adds_to_it(hil, a_teensy, bench, tmp_path):
    code, _, err = hil("boards", "--discover")
    assert (code, err) == (0, "added to " + str(tmp_path / "boards.toml") + ": teensy41-1\n")
    assert (tmp_path / "boards.toml").read_text().startswith(BENCH)
    assert "nothing to add: 1 boards of the map are plugged in" in hil("boards", "--discover")[2]
    document = json.loads(hil("boards", "--discover", "--force", "--json")[1])
    assert [place["name"] for place in document["bench"]] == document["added"] == ["teensy41-1"]
    (tmp_path / "boards.toml").unlink()
    hil("boards", "--discover")
    assert (tmp_path / "boards.toml").read_text().startswith("# The boards of this bench.")


def test_force_belongs_to_discover(hil, a_teensy):
    code, _, err = hil("boards", "--force")
    assert code == 2
    assert "--force belongs to --discover" in err


def test_discover_never_touches_a_map_that_it_cannot_read(hil, a_teensy, bench, tmp_path):
    (tmp_path / "boards.toml").write_text("[left]\n")
    code, _, err = hil("boards", "--discover")
    assert code == 3
    assert "left: kind is missing" in err
    assert (tmp_path / "boards.toml").read_text() == "[left]\n"


def test_power(hil, bench):
    assert hil("power", "left", "on") == (0, "", "left: power on\n")
    for name, message in (
        ("right", "right has no power switch"),
        ("native", "is a type of board"),
        ("lft", "did you mean 'left'"),
    ):
        code, _, err = hil("power", name, "on")
        assert code == 2
        assert message in err


def test_a_board_that_is_held_is_not_switched(hil, bench, tmp_path):
    with another_user(reservation.board("left", tmp_path / "boards.toml"), name="left"):
        code, _, err = hil("power", "left", "off")
    assert code == 3
    assert "left is held by" in err


@pytest.mark.slow
def test_run_takes_every_board_of_a_label_and_any_free_one(hil, bench, tmp_path, ppo_bundle):
    (tmp_path / "boards.toml").write_text(BENCH.replace('kind = "native"\n\n', 'kind = "native"\n') + 'labels = ["fast"]\n')
    short = ("--engine", "int8", "--clock", "lockstep", "--steps", "5")
    code, out, err = hil("run", str(ppo_bundle.path), "--board", "@fast:all", *short, "--no-record", "--json")
    assert code == 0, err
    assert [run["board"] for run in json.loads(out)["runs"]] == ["left", "right"]
    with held("left"):
        code, out, err = hil("run", str(ppo_bundle.path), "--board", "@fast", *short, "--json")
    assert code == 0, err
    (run,) = json.loads(out)["runs"]
    assert run["board"] == "right"
    assert "-right-lockstep" in run["recording"]


def test_boards_without_any_port(hil, monkeypatch):
    monkeypatch.setattr(boards_command, "list_serial_ports", list)
    _, out, _ = hil("boards")
    assert "no serial port found" in out


@contextlib.contextmanager
def emulated(*arguments):
    process = subprocess.Popen(
        [*HIL, "emulate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        port = process.stdout.readline().strip()
        assert port, process.stderr.read()
        yield process, port
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def emulator(ppo_bundle, tmp_path_factory):
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
    link = tmp_path_factory.mktemp("ports") / "board"
    with emulated(str(ppo_bundle.path), "--link", str(link)) as (process, port):
        assert port == str(link)
        yield process, port


def test_emulate_serves_one_program_after_the_other(emulator, ppo_bundle):
    _, port = emulator
    for baud in (115_200, 9600):
        with serial.Serial(port, baud, timeout=DEADLINE_S) as person:
            person.write(b"0.1, 0, 0, 0, 0, 0\r\n")
            assert len(person.readline().split(b",")) == 2
        with connect("serial", ppo_bundle, port=port, baud=baud) as board:
            assert board.info.model_id == ppo_bundle.id
            board.infer_raw(np.zeros(6, np.int8))


def test_emulate_takes_a_model_without_a_table(tmp_path):
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
    path = tmp_path / "bare.tflite"
    path.write_bytes(actor((120, 4, 3), "RELU", per_channel=True, seed=0))
    with (
        emulated(str(path), "--board", "native", "--engine", "int8") as (_, port),
        connect("serial", port=port) as board,
    ):
        row = np.arange(120, dtype=np.int8)
        assert board.infer_raw(row).output.tolist() == TflmRuntime(path.read_bytes()).infer_raw(row).tolist()


def test_run_drives_an_emulated_board_by_its_port(emulator, hil, ppo_bundle):
    _, port = emulator
    code, out, err = hil(
        *("run", str(ppo_bundle.path), "--port", port, "--clock", "lockstep", "--seconds", "0.5", "--no-record", "--json")
    )
    assert code == 0, err
    assert json.loads(out)["runs"][0]["port"] == port


def test_a_port_in_use_is_busy(emulator, ppo_bundle):
    _, port = emulator
    with connect("native", ppo_bundle, port=port), pytest.raises(PortBusyError, match="is busy"):
        link.open_link(port)


def test_a_stale_board_on_a_port(emulator, hil, ppo_bundle):
    _, port = emulator
    with pytest.raises(ModelMismatchError, match=f"runs policy {ppo_bundle.id}, this run needs ffffffffffff"):
        connect("serial", replace(ppo_bundle, id="ffffffffffff"), port=port)


def test_emulate_ends_on_sigterm_with_nothing_left(ppo_bundle, tmp_path):
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
    name = tmp_path / "board"
    with emulated(str(ppo_bundle.path), "--link", str(name)) as (process, port):
        target = Path(port).readlink()
        process.terminate()
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert not name.is_symlink()
    deadline = time.monotonic() + DEADLINE_S
    while target.exists() and time.monotonic() < deadline:  # the pseudo-terminal goes with its last process
        time.sleep(0.01)
    assert not target.exists()


@pytest.mark.parametrize("port", ["/dev/pts/7", "socket://127.0.0.1:7"])
def test_the_link_to_any_port_is_removed_again_unless_another_program_has_taken_it(tmp_path, port):
    name = tmp_path / "board"
    with emulate_command._symbolic_link(name, port):
        assert os.readlink(name) == port  # noqa: PTH115 - a Path makes one slash of socket://
    assert not name.is_symlink()
    with emulate_command._symbolic_link(name, port), emulate_command._symbolic_link(name, "socket://127.0.0.1:8"):
        pass
    assert not name.is_symlink()


def test_emulate_refuses_what_it_cannot_do(hil, ppo_bundle, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = hil("emulate", str(ppo_bundle.path), "--board", "serial")
    assert (code, out) == (2, "")
    assert "is not emulated" in err
    code, out, err = hil("emulate", str(ppo_bundle.path), "--link", str(tmp_path / "file"))
    assert (code, out) == (2, "")
    assert "is not a symbolic link" in err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_an_emulator_that_a_shell_started_in_the_background(ppo_bundle, number):
    """Such a shell has SIGINT ignored in it."""
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
    ignoring = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    with subprocess.Popen(
        [*ignoring, *HIL, "emulate", str(ppo_bundle.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline(), process.stderr.read()
            process.send_signal(number)
            process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == 0
