import json
import os

import pytest

from balance_hil.boards import definition
from balance_hil.boards.definition import BoardDefinition, find_definition, load_definition, load_definitions
from balance_hil.boards.kinds.serial import find_port
from balance_hil.errors import AmbiguousBoardError, ConfigError, PortNotFoundError, UnknownBoardError, UsageError
from balance_hil.firmware_build import OwnSources
from balance_hil.link import SerialPort

TEENSY = BoardDefinition(name="teensy41", kind="serial", usb_vid=0x16C0, usb_pid=0x0483)


def port(device, serial_number="1", vid=0x16C0, pid=0x0483):
    return SerialPort(
        device=device, description="", vid=vid, pid=pid, serial_number=serial_number, accessible=True, group="dialout"
    )


def test_a_board_with_several_usb_numbers():
    nucleo = BoardDefinition(name="nucleo", kind="serial", usb_vid=0x0483, usb_pid=0x374B, usb_also="0483:374e 0483:3754")
    found = {pid: nucleo.matches(port("/dev/ttyACM0", vid=0x0483, pid=pid)) for pid in (0x374B, 0x374E, 0x3754, 0x5740)}
    assert found == {0x374B: True, 0x374E: True, 0x3754: True, 0x5740: False}


def write(folder, text, name="board.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_shipped_definitions():
    boards = load_definitions()
    assert boards["native"].kind == "native"
    assert {board.engine for board in boards.values()} == {""}, "one rule for all"
    assert boards["serial"].kind == "serial"
    assert {name for name, board in boards.items() if board.kind == "qemu"} == {
        "qemu-m3",
        "qemu-m4",
        "qemu-m7",
        "qemu-m55",
        "f405",
    }


def test_a_full_definition(tmp_path):
    path = write(
        tmp_path,
        'name = "teensy41"\nkind = "serial"\nbaud = 115200\nusb_vid = 0x16C0\nusb_pid = 0x0483\nusb_serial = "8"\n'
        'notes = "rig 2"\n',
    )
    assert load_definition(path) == BoardDefinition(
        name="teensy41", kind="serial", baud=115200, usb_vid=0x16C0, usb_pid=0x0483, usb_serial="8", notes="rig 2"
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('name = "a"\nkind = "native"\nbuad = 9600', "unknown key 'buad'", "did you mean 'baud'"),
        ('name = "a"\nkind = "native"\nzzz = 1', "unknown key 'zzz'", "valid keys: name, kind"),
        ('name = "a"\nkind = "native"\nbaud = "fast"', "baud must be of type int", ""),
        ('name = "a"\nkind = "native"\nbaud = true', "baud must be of type int", ""),
        (
            'name = "a"\nkind = "serial"\nupload = "mail"',
            "upload cannot be 'mail'",
            "one of platformio, teensy, stlink, esptool, bossac, drive",
        ),
        ('name = "a"\nkind = "native"\nbaud = 0', "baud must be positive", ""),
        ('kind = "native"', "name is missing", "name ="),
        ('name = "a"', "kind is missing", "kind ="),
        ('name = "a"\nkind = "radio"', "unknown board kind: 'radio'", "native, qemu, rp2040, serial"),
        ('name = "a"\nkind = "qemu"\nenvironment = "qemu_m4"', "needs environment and machine", "qemu-m4.toml"),
        ("name = ", "is not TOML", ""),
    ],
)
def test_a_bad_definition_names_what_is_wrong(tmp_path, text, message, hint):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_definition(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert hint in caught.value.message + caught.value.hint


OWN = {
    "name": "mine",
    "kind": "serial",
    "hal": "hal",
    "cpu_flags": "-mcpu=cortex-m3 -mthumb",
    "clock_hz": 50_000_000,
    "flash_bytes": 262_144,
    "ram_bytes": 65_536,
    "rx_irq": 5,
}


def own(folder, **changed):
    """A board with a HAL of its own; None leaves a key out."""
    (folder / "hal").mkdir()
    (folder / "hal" / "hal.cpp").write_text("")
    table = {key: value for key, value in {**OWN, **changed}.items() if value is not None}
    return write(folder, "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items()))


def test_a_board_with_functions_of_its_own(tmp_path):
    path = own(tmp_path)
    board = load_definition(path)
    assert (board.environment, board.upload_bytes, board.ram_address) == ("custom", 8192, 0x2000_0000)
    assert board.own_sources == OwnSources(path, tmp_path / "hal")
    before = board.own_sources.identity()
    (tmp_path / "hal" / "hal.cpp").write_text("// changed")
    assert board.own_sources.identity() != before  # the image is built again


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cpu_flags": None}, "hal needs cpu_flags"),
        ({"rx_irq": None}, "hal needs rx_irq"),
        ({"rx_irq": 82}, "rx_irq must be below 82"),
        ({"ram_bytes": -1}, "ram_bytes must not be negative"),
        ({"clock_hz": 50}, "clock_hz must be in Hz"),
        ({"cpu_flags": "-mthumb"}, "cpu_flags names no processor"),
        ({"hal": "nowhere"}, r"there is no \.cpp file"),
        ({"hal": None}, "cpu_flags belongs to hal"),
        ({"environment": "f405"}, "hal and environment exclude each other"),
        ({"name": "a/b"}, "the name of a board with hal"),
    ],
)
def test_a_board_with_functions_of_its_own_names_what_is_wrong(tmp_path, changed, message):
    with pytest.raises(ConfigError, match=message):
        load_definition(own(tmp_path, **changed))


def test_two_files_for_one_board(tmp_path):
    write(tmp_path, 'name = "a"\nkind = "native"', "a.toml")
    write(tmp_path, 'name = "a"\nkind = "serial"', "b.toml")
    with pytest.raises(ConfigError, match=r"the board 'a' is already defined in .*a\.toml"):
        load_definitions(tmp_path)


def test_unknown_board_suggests_one():
    with pytest.raises(UnknownBoardError, match="unknown board 'natvie'") as caught:
        find_definition("natvie")
    assert "did you mean 'native'?" in caught.value.message
    assert "hil boards" in caught.value.hint


def test_boards_of_ones_own_stand_beside_the_shipped_ones(tmp_path, monkeypatch):
    for number, folder in enumerate(("project/boards", "config/boards", "named/one", "named/two")):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder, f'name = "mine{number}"\nkind = "serial"')
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(definition, "CONFIG", tmp_path / "config")
    monkeypatch.setenv("HIL_BOARDS", f"{tmp_path / 'named/one'}{os.pathsep}{tmp_path / 'named/two'}")
    boards = load_definitions()
    assert {"native", "mine0", "mine1", "mine2", "mine3"} <= set(boards)
    assert boards["mine0"].file == tmp_path / "project/boards/board.toml"
    monkeypatch.setenv("HIL_BOARDS", str(definition.SHIPPED))  # the shipped files once more are no boards of one's own
    assert {"native", "mine0", "mine1"} <= set(load_definitions())


def test_a_board_of_ones_own_does_not_hide_a_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "boards").mkdir()
    own = write(tmp_path / "boards", 'name = "native"\nkind = "serial"')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"the board 'native' is already defined in .*native\.toml") as caught:
        find_definition("teensy41")
    assert str(own) in caught.value.message
    assert "choose another name" in caught.value.hint


def test_what_only_a_kind_asks_for_is_for_that_kind(tmp_path):
    path = write(tmp_path, 'name = "a"\nkind = "qemu"\nenvironment = "qemu_m4"\nmachine = "mps2-an386"')
    assert load_definition(path).settings == {"machine": "mps2-an386"}
    with pytest.raises(ConfigError, match="unknown key 'machine'"):
        load_definition(write(tmp_path, 'name = "a"\nkind = "native"\nmachine = "mps2-an386"'))


def test_port_of_a_board_by_its_usb_numbers():
    other = port("/dev/ttyUSB0", vid=0x0403, pid=0x6001)
    assert find_port(TEENSY, [other, port("/dev/ttyACM0")]) == "/dev/ttyACM0"
    with pytest.raises(PortNotFoundError, match=r"no teensy41 is connected \(USB 16c0:0483\)"):
        find_port(TEENSY, [other])
    with pytest.raises(AmbiguousBoardError, match="2 boards look like teensy41") as caught:
        find_port(TEENSY, [port("/dev/ttyACM0", "1"), port("/dev/ttyACM1", "2")])
    assert "hil boards --discover" in caught.value.hint


def test_one_of_two_boards_by_its_serial_number():
    bound = BoardDefinition(name="rig", kind="serial", usb_vid=0x16C0, usb_serial="2")
    ports = [port("/dev/ttyACM0", "1"), port("/dev/ttyACM1", "2")]
    assert find_port(bound, ports) == "/dev/ttyACM1"
    assert find_port(BoardDefinition(name="b", kind="serial", port="/dev/ttyS0"), ports) == "/dev/ttyS0"


def test_a_definition_that_does_not_say_where():
    with pytest.raises(UsageError, match="names no port") as caught:
        find_port(BoardDefinition(name="serial", kind="serial"), [])
    assert "--port" in caught.value.hint
