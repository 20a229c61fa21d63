"""The bench's map: what it holds, what it must not hold, names and labels, and what belongs to a board."""

from __future__ import annotations

from pathlib import Path

import pytest

from balance_hil.boards import bench, connect, find_board, held, reservation
from balance_hil.boards.bench import board_names, expanded, load_map, map_path
from balance_hil.boards.discovery import as_toml, discover, write
from balance_hil.boards.flash import FlashConfig, flash
from balance_hil.boards.kinds import serial as serial_kind
from balance_hil.boards.place import Place
from balance_hil.boards.reservation import reservations
from balance_hil.errors import (
    ConfigError,
    HarnessError,
    PortBusyError,
    PortNotFoundError,
    SilentBoardError,
    UnknownBoardError,
    UsageError,
)
from balance_hil.link import SerialPort
from balance_hil.verifying.verify import VerifyConfig, verify

from .holder import another_user

MAP = """
[left]
kind = "qemu-m7"
labels = ["cortex-m7", "emulated"]

[right]
kind = "qemu-m7"
labels = ["cortex-m7"]

[nucleo-2]
kind = "nucleo_f446re"
usb_serial = "066B"
probe = "066B"
labels = ["cortex-m4"]
baud = 115200
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a map, and locks of the test's own."""
    monkeypatch.setattr(reservation, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(bench, "CONFIG", tmp_path / "config")
    project = tmp_path / "project"
    project.mkdir()
    (project / "boards.toml").write_text(MAP)
    monkeypatch.chdir(project)
    return project


def usb(device: str, number: str | None, vid: int = 0x0483, pid: int = 0x374B) -> SerialPort:
    return SerialPort(device=device, description="", vid=vid, pid=pid, serial_number=number, accessible=True, group="dialout")


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[SerialPort]:
    ports: list[SerialPort] = []
    monkeypatch.setattr(serial_kind, "list_serial_ports", lambda: ports)
    return ports


# --- the file -------------------------------------------------------------------------------------------------------------


def test_a_board_of_the_map_is_one_of_its_kind_with_what_is_its_own() -> None:
    left, nucleo = find_board("left"), find_board("nucleo-2")
    assert (left.name, left.type_name, left.is_emulated) == ("left", "qemu-m7", True)
    assert left.settings == find_board("qemu-m7").settings
    assert (nucleo.baud, nucleo.usb_serial, nucleo.environment) == (115200, "066B", "nucleo_f446re")
    assert list(load_map()) == ["left", "right", "nucleo-2"]


def test_the_map_is_searched_upward_to_the_root_of_the_project_and_then_in_the_configuration(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(place / "deep" / "deeper")
    assert map_path() is None, "outside of a project only the current folder counts"
    (place / ".git").mkdir()
    assert map_path() == place / "boards.toml"
    (place / "deep" / "pyproject.toml").touch()
    assert map_path() is None, "another project"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "boards.toml").write_text('[mine]\nkind = "native"\n')
    assert list(load_map()) == ["mine"]


def test_a_connected_board_is_not_started_whatever_its_kind(place: Path) -> None:
    (place / "boards.toml").write_text('[rig]\nkind = "pico"\nport = "socket://127.0.0.1:4000"\n')
    assert not find_board("rig").is_emulated
    assert find_board("pico").is_emulated


BAD = {
    'a = "x': ("is not TOML", "docs/bench.md"),
    'kind = "native"': ("kind is a key outside of a board", "[NAME]"),
    "[a]": ("a: kind is missing", "hil boards"),
    '[a]\nkind = "natvie"': ("unknown kind 'natvie', did you mean 'native'?", "kinds: "),
    '[a]\nkind = "native"\nlabel = ["x"]': ("unknown key 'label', did you mean 'labels'?", "valid keys: kind, "),
    '[a]\nkind = "native"\nlabels = "x"': ("labels must be a list of texts, not 'x'", ""),
    '[a]\nkind = "native"\nlabels = [1]': ("labels must be a list of texts", ""),
    '[a]\nkind = "native"\nlabels = ["a b"]': ("'a b' is no label", "letters"),
    '[a]\nkind = "native"\nbaud = "fast"': ("baud must be of type int, not 'fast'", ""),
    '[a]\nkind = "native"\nbaud = -1': ("baud must be positive", ""),
    '["a b"]\nkind = "native"': ("is no name of a board", "letters"),
    '[native]\nkind = "pico"': ("native is the name of another kind of board than pico", "another name"),
    '[a]\nkind = "serial"\nport = "/dev/x"\nusb_serial = "1"': ("port and usb_serial exclude each other", "leave out port"),
    '[a]\nkind = "native"\npower = "relay 3"': ("power does not say where on and off go", "{action}"),
    '[a]\nkind = "native"\npower = "relay \'{action}"': ("power is no command: No closing quotation", "quotes"),
    '[a]\nkind = "native"\nhub = "1-1"': ("hub and hub_port belong together", "uhubctl"),
    '[a]\nkind = "serial"\nport = "/dev/x"\n[b]\nkind = "serial"\nport = "/dev/../dev/x"': (
        "a and b have the same port, /dev/../dev/x",
        "hil boards",
    ),
    '[a]\nkind = "serial"\nusb_serial = "7"\n[b]\nkind = "serial"\nusb_serial = "7"': ("the same USB serial number, 7", ""),
    '[a]\nkind = "serial"\nprobe = "7"\n[b]\nkind = "serial"\nprobe = "7"': ("a and b have the same probe, 7", ""),
    '[a]\nkind = "native"\nhub = "1-1"\nhub_port = 2\n[b]\nkind = "native"\nhub = "1-1"\nhub_port = 2': (
        "the same hub port, 1-1 2",
        "",
    ),
    "a = " + "[" * 5000: ("boards.toml", "docs/bench.md"),
    "# " + "x" * (65 << 10): ("larger than", "docs/bench.md"),
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:40])
def test_a_bad_map_is_named_with_what_is_wrong(place: Path, text: str) -> None:
    (place / "boards.toml").write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        find_board("native")
    message, hint = BAD[text]
    assert message in caught.value.message
    assert str(place / "boards.toml") in caught.value.message
    assert hint in caught.value.hint


# --- names and labels -----------------------------------------------------------------------------------------------------


def test_names_and_labels() -> None:
    assert expanded(["right", "@cortex-m7:all", "native", "native", "@emulated"]) == [
        "right",
        "left",
        "native",
        "native",
        "@emulated",
    ]
    assert {"left", "native", "@cortex-m7", "@cortex-m7:all"} <= set(board_names())


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("lefft", "unknown board 'lefft', did you mean 'left'?", "boards: "),
        ("@cortex-m8", "no board of the bench has the label 'cortex-m8', did you mean '@cortex-m7'?", "labels: cortex-m4, "),
        ("@cortex-m8:all", "did you mean '@cortex-m7'?", "labels: "),
    ],
)
def test_an_unknown_name_or_label(name: str, message: str, hint: str) -> None:
    for search in (lambda: expanded([name]), lambda: connect(name)):
        with pytest.raises(UnknownBoardError) as caught:
            search()
        assert message in caught.value.message
        assert hint in caught.value.hint


def test_a_label_without_a_map(place: Path) -> None:
    (place / "boards.toml").unlink()
    with pytest.raises(UnknownBoardError) as caught:
        connect("@cortex-m7")
    assert "hil boards --discover" in caught.value.hint


# --- what belongs to a board ----------------------------------------------------------------------------------------------


def test_a_label_takes_the_first_that_is_free_and_names_who_has_the_others(place: Path) -> None:
    with held("@cortex-m7") as first, held("@cortex-m7") as second:
        assert (first.definition.name, second.definition.name) == ("left", "right")
        with pytest.raises(PortBusyError) as caught, held("@cortex-m7"):
            pass
    assert "no board with the label @cortex-m7 is free: left is held by this very program" in caught.value.message
    with another_user(reservation.board("left", place / "boards.toml"), name="left"), held("@cortex-m7") as chosen:
        assert chosen.definition.name == "right"


def test_a_label_is_waited_for(place: Path) -> None:
    said = []

    def release(line: str) -> None:
        said.append(line)
        if line.startswith("waiting"):
            pipe.send(0.0)

    board = reservation.board("nucleo-2", place / "boards.toml")
    (place / "boards.toml").write_text('[nucleo-2]\nkind = "native"\nlabels = ["x"]\n')
    with another_user(board, name="nucleo-2") as (_, pipe), held("@x", 60.0, release) as chosen:
        assert chosen.definition.name == "nucleo-2"
    assert said[0].startswith("waiting up to 60 s for one of board with the label @x: nucleo-2 is held by ")
    assert said[-1] == "@x is nucleo-2"


def test_every_board_of_a_label_is_too_much_where_one_is_needed() -> None:
    with pytest.raises(UsageError, match="@cortex-m7:all stands for 2 boards, and this takes one") as caught:
        connect("@cortex-m7:all")
    assert "left, right; or any free one: @cortex-m7" in caught.value.hint


def test_a_board_is_reserved_with_its_port_and_its_probe(plugged: list[SerialPort], tmp_path: Path) -> None:
    device = tmp_path / "ttyACM3"
    device.touch()
    plugged += [usb(str(tmp_path / "ttyACM1"), "066A"), usb(str(device), "066B")]
    with held("nucleo-2") as board:
        assert board.port == str(device)
        assert {owner.board for owner in reservations()} == {"nucleo-2"}
        assert {owner.port for owner in reservations()} >= {str(device), "probe:066B"}
    for resource in (str(device), reservation.probe("066B")):
        with another_user(resource), pytest.raises(PortBusyError, match="nucleo-2 is held by"), held("nucleo-2"):
            pass
    assert reservations() == []


def test_a_board_that_is_not_plugged_in(plugged: list[SerialPort]) -> None:
    plugged.append(usb("/dev/ttyACM1", "066A"))
    for name in ("nucleo-2", "@cortex-m4"):
        with pytest.raises(PortNotFoundError, match=r"no nucleo-2 is connected \(USB with serial number 066B\)"), held(name):
            pass
    with held("nucleo-2", connected=False) as board:
        assert board.port is None


def test_another_port_than_that_of_the_map_is_refused(plugged: list[SerialPort]) -> None:
    plugged.append(usb("/dev/ttyACM3", "066B"))
    with held("nucleo-2", port="/dev/../dev/ttyACM3"):
        pass
    for name, where in (("nucleo-2", "nucleo-2 is on /dev/ttyACM3"), ("left", "left is emulated")):
        with pytest.raises(UsageError, match=where), held(name, port="/dev/ttyACM4"):
            pass
    with pytest.raises(UsageError, match="@cortex-m7 stands for boards"), held("@cortex-m7", port="/dev/ttyACM4"):
        pass


def test_an_emulated_board_of_the_map_runs_and_is_held_until_it_is_closed(place: Path, ppo_bundle) -> None:
    (place / "boards.toml").write_text('[left]\nkind = "native"\n')
    with connect("left", ppo_bundle, engine="int8") as board:
        assert (board.name, board.info.board) == ("left", "native")
        assert [owner.board for owner in reservations()] == ["left"]
    assert reservations() == []
    with another_user(reservation.board("left", place / "boards.toml"), name="left"), pytest.raises(PortBusyError):
        connect("left", ppo_bundle, engine="int8")
    with pytest.raises(UsageError, match="has no engine"):
        connect("left", ppo_bundle, engine="onnx")
    assert reservations() == []


def test_an_emulated_board_is_not_flashed(linear_bundle) -> None:
    for name in ("left", "@cortex-m7"):
        with pytest.raises(UsageError, match="left is emulated: it is not flashed"):
            flash(FlashConfig(bundle=linear_bundle, board=name))


def test_verify_takes_a_label(linear_bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
    assert verify(linear_bundle, VerifyConfig(board="@emulated"), [], lambda *_: None).board == "left"


# --- discovery ------------------------------------------------------------------------------------------------------------


def nobody(port: SerialPort) -> str:
    raise SilentBoardError("no byte arrived", "look at the cable")


def test_discovery_adds_what_is_new_and_keeps_what_is_written(place: Path) -> None:
    text = "# my bench\n" + MAP.strip() + "   # mine\n"
    (place / "boards.toml").write_text(text)
    ports = [
        usb("/dev/ttyACM0", "066B"),
        usb("/dev/ttyACM1", "12345", 0x16C0, 0x0483),
        usb("/dev/ttyACM2", "066C"),
        usb("/dev/ttyUSB0", "FT1", 0x0403, 0x6001),
    ]
    types = bench.load_definitions()
    found = discover(ports, types, load_map(), lambda port: "nucleo_h743zi")
    assert found.known == ["nucleo-2"]
    assert found.unknown == ["/dev/ttyUSB0 has the USB ids of no type of board"]
    write(place / "boards.toml", found.added)
    now = (place / "boards.toml").read_text()
    assert now.startswith(text)
    assert now[len(text) :] == (
        '\n[teensy41-1]\nkind = "teensy41"\nusb_serial = "12345"\nlabels = ["cortex-m7"]\n'
        '\n[nucleo_h743zi-1]\nkind = "nucleo_h743zi"\nusb_serial = "066C"\nprobe = "066C"\nlabels = ["cortex-m7"]\n'
    )
    again = discover(ports, types, load_map(), nobody)
    assert again.added == []
    write(place / "boards.toml", found.added, anew=True)
    assert list(load_map()) == ["teensy41-1", "nucleo_h743zi-1"]


def test_a_port_that_fits_several_types_and_does_not_say_which_is_told(place: Path) -> None:
    types = bench.load_definitions()
    for ask, why in ((nobody, "no byte arrived"), (lambda port: "something", "")):
        found = discover([usb("/dev/ttyACM2", "066C")], types, {}, ask)
        assert found.added == []
        assert found.unknown[0].startswith("/dev/ttyACM2 is one of nucleo_f446re, nucleo_h743zi")
        assert why in found.unknown[0]


@pytest.mark.parametrize("number", [None, "1"])
def test_boards_that_a_serial_number_does_not_tell_apart_are_known_by_their_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str | None
) -> None:
    (tmp_path / "by-path").mkdir()
    for n in range(2):
        (tmp_path / f"ttyACM{n}").touch()
        (tmp_path / "by-path" / f"pci-usb-{n}").symlink_to(tmp_path / f"ttyACM{n}")
    monkeypatch.setattr("balance_hil.boards.discovery.LINKS", (tmp_path / "by-path",))
    ports = [usb(str(tmp_path / f"ttyACM{n}"), number, 0x16C0, 0x0483) for n in range(2)]
    added = discover(ports, bench.load_definitions(), {}, nobody).added
    assert [(each.port, each.usb_serial) for each in added] == [(str(tmp_path / "by-path" / f"pci-usb-{n}"), "") for n in (0, 1)]
    known = {each.name: each for each in added}
    assert discover(ports, bench.load_definitions(), known, nobody).known == ["teensy41-1", "teensy41-2"]


def test_whatever_a_device_calls_itself_is_one_text_of_the_map(place: Path) -> None:
    number = 'x"]\n[evil]\nkind = "\x7f\x00\ud800é'
    write(place / "new.toml", [Place(name="a.b", kind="teensy41", usb_serial=number)])
    (board,) = load_map(place / "new.toml").values()
    assert (board.name, board.usb_serial) == ("a.b", number.replace("\ud800", "?"))
    assert as_toml([board]).startswith('["a.b"]\n')


def test_a_map_that_is_not_valid_is_not_written_over(place: Path) -> None:
    (place / "boards.toml").write_text('[left]\nkind = "qemu-m7"\nlables = []\n')
    with pytest.raises(HarnessError):
        write(place / "boards.toml", [Place(name="b", kind="native")])
    assert "[b]" not in (place / "boards.toml").read_text()
    assert list(place.iterdir()) == [place / "boards.toml"]
