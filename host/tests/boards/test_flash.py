"""hil flash against emulated ports and flash tools of the test's own, which print and return what the real ones do."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import serial
from click.testing import CliRunner

import balance_hil.boards.kinds.serial
from balance_hil import firmware_build, opening
from balance_hil.boards import find_definition, flash_tool, reservation
from balance_hil.boards import flash as flashing
from balance_hil.boards.engines import MAX_VALUES
from balance_hil.boards.flash import FlashConfig, FlashResult
from balance_hil.boards.flash_tool import TOOLS
from balance_hil.boards.reservation import reservations
from balance_hil.bundle import INT8_MODEL
from balance_hil.cli import flash as flash_command
from balance_hil.errors import (
    AmbiguousBoardError,
    BoardNotBackError,
    BoardStatusError,
    FirmwareBuildError,
    FlashFailedError,
    FlashToolMissingError,
    HarnessError,
    PortBusyError,
    PortNotFoundError,
    UnknownBoardError,
    UsageError,
    WrongBoardError,
)
from balance_hil.link import SerialPort
from balance_hil.protocol.messages import Status
from balance_hil.testing.synthetic_models import actor, linear

from .flash_bench import COMMIT, Bench, hold, our_firmware

OTHER_MODEL = "ffffffffffff"
SHORT_S = 0.6
NUCLEO = {"vid": 0x0483, "pid": 0x374B}


def silent(data: bytes) -> bytes:
    return b""


def banner(data: bytes) -> bytes:
    return b"MicroPython v1.24 on 2026-01-01; Teensy 4.1\r\n>>> "


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench = Bench(tmp_path)
    for tools in TOOLS.values():
        bench.install(tools[0].name)
    monkeypatch.setenv("PATH", f"{bench.tools}{os.pathsep}{os.environ['PATH']}")
    for module in (flashing, flash_tool, balance_hil.boards.kinds.serial):
        monkeypatch.setattr(module, "list_serial_ports", bench.ports)
    monkeypatch.setattr(flashing, "firmware_commit", lambda: COMMIT)
    monkeypatch.setattr(flashing, "ASK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(flashing, "build_image", bench.build)
    monkeypatch.setattr(flashing, "check_board_tools", lambda environment: None)
    monkeypatch.setattr(flash_tool, "BOOT_LOADER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(flash_tool, "PROJECT", tmp_path)  # without PlatformIO's packages
    monkeypatch.setattr(reservation, "LOCKS", tmp_path / "locks")  # other tests hold boards of theirs at the same time
    monkeypatch.setenv("HIL_TFLM_LIB", "")
    yield bench
    bench.close()


@pytest.fixture
def linear_bundle(linear_bundle, tmp_path):
    """With a model in its folder, which is looked at before anything is built."""
    folder = tmp_path / "models" / "linear"
    folder.mkdir(parents=True)
    (folder / INT8_MODEL).write_bytes(actor((6, 4, 2), "RELU", per_channel=True, seed=0))
    return replace(linear_bundle, path=folder)


def flash(bench: Bench, bundle, *, board: str = "teensy41", **options) -> FlashResult:
    bench.start()
    return flashing.flash(FlashConfig(bundle=bundle, board=board, **options))


def replug(bench: Bench, name: str, answer, **usb):
    """What an upload does: the first port vanishes and another one appears."""

    def on_upload() -> None:
        if bench.boards:
            bench.unplug(bench.boards[0])
        bench.plug(name, answer, **usb)

    bench.on_upload = on_upload


def refused(bench: Bench, bundle, **options) -> HarnessError:
    with pytest.raises(HarnessError) as caught:
        flash(bench, bundle, **options)
    return caught.value


# --- a flash that goes well -----------------------------------------------------------------------------------------------


def test_the_board_vanishes_comes_back_under_another_name_and_runs_the_policy(bench, linear_bundle):
    bench.plug("ttyACM0", our_firmware(linear_bundle, model_id=OTHER_MODEL))
    replug(bench, "ttyACM7", our_firmware(linear_bundle))
    result = flash(bench, linear_bundle)
    assert result.flashed
    assert result.port.endswith("ttyACM7")
    assert result.info.model_id == linear_bundle.id
    assert bench.builds == [("teensy41", linear_bundle.path / "model.h", 921_600)]
    assert bench.calls() == [f"teensy_loader_cli --mcu=TEENSY41 -w -v {bench.folder}/teensy41.hex"]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The file of a custom board on a desk, as docs/custom-board.md describes it."""
    (tmp_path / "boards/chip").mkdir(parents=True)
    (tmp_path / "boards/chip/hal.cpp").touch()
    (tmp_path / "boards/desk.toml").write_text(
        """name = "desk"
kind = "serial"
description = "a Cortex-M without an Arduino core"
usb_vid = 0x0483
usb_pid = 0x374B
upload = "stlink"
upload_options = "-f interface/stlink.cfg -f target/stm32l4x.cfg"
hal = "chip"
cpu_flags = "-mcpu=cortex-m4 -mthumb"
clock_hz = 80_000_000
flash_address = 0x0800_0000
flash_bytes = 1_048_576
ram_bytes = 98_304
rx_irq = 38
"""
    )
    monkeypatch.setenv("HIL_BOARDS", str(tmp_path / "boards"))
    return tmp_path / "boards/desk.toml"


def test_a_custom_board_is_built_with_its_functions_and_written_by_its_tool(bench, linear_bundle, desk):
    bench.plug("ttyACM0", silent, **NUCLEO)
    bench.on_upload = lambda: (
        bench.unplug(bench.boards[0]),
        bench.plug("ttyACM0", our_firmware(linear_bundle, board="desk"), **NUCLEO),
    )
    result = flash(bench, linear_bundle, board="desk")
    assert result.flashed
    assert result.info.board == "desk"
    assert bench.builds == [("custom", linear_bundle.path / "model.h", 921_600)]
    assert bench.own.board_file == desk
    assert [call for call in bench.calls() if f"{bench.folder}/custom.elf" in call and "target/stm32l4x.cfg" in call], (
        bench.calls()
    )


def test_a_custom_board_without_a_tool_to_write_it_is_told(bench, linear_bundle, desk):
    desk.write_text("".join(line for line in desk.read_text().splitlines(keepends=True) if "upload" not in line))
    error = refused(bench, linear_bundle, board="desk")
    assert "upload" in error.hint
    assert bench.builds == []


def test_the_same_image_is_not_flashed_again(bench, linear_bundle):
    bench.plug("ttyACM0", our_firmware(linear_bundle))
    result = flash(bench, linear_bundle)
    assert not result.flashed
    assert bench.calls() == []


@pytest.mark.parametrize(
    "change", [{"model_id": OTHER_MODEL}, {"firmware_commit": "9" * 12}, {"engine": "tflm"}, {"uploaded": 1}]
)
def test_any_other_image_is_replaced(bench, linear_bundle, change):
    bench.plug("ttyACM0", our_firmware(linear_bundle, **change))
    replug(bench, "ttyACM0", our_firmware(linear_bundle))
    assert flash(bench, linear_bundle).flashed


def test_local_changes_are_never_taken_for_the_same_image(bench, linear_bundle, monkeypatch):
    monkeypatch.setattr(flashing, "firmware_commit", lambda: COMMIT + "+")
    bench.plug("ttyACM0", our_firmware(linear_bundle, firmware_commit=COMMIT + "+"))
    replug(bench, "ttyACM0", our_firmware(linear_bundle, firmware_commit=COMMIT + "+"))
    assert flash(bench, linear_bundle).flashed


def test_force_flashes_the_same_image(bench, linear_bundle):
    bench.plug("ttyACM0", our_firmware(linear_bundle))
    replug(bench, "ttyACM0", our_firmware(linear_bundle))
    assert flash(bench, linear_bundle, force=True).flashed


@pytest.mark.parametrize("answer", [silent, banner, lambda data: bytes(range(128, 256))])
def test_whatever_ran_before_is_replaced(bench, linear_bundle, answer):
    bench.plug("ttyACM0", answer)
    replug(bench, "ttyACM0", our_firmware(linear_bundle))
    assert flash(bench, linear_bundle).flashed


def test_the_engine_chooses_the_environment(bench, linear_bundle, monkeypatch):
    monkeypatch.setenv("HIL_TFLM_LIB", "/libraries")
    bench.plug("ttyACM0", silent)
    replug(bench, "ttyACM0", our_firmware(linear_bundle, engine="tflm"))
    assert flash(bench, linear_bundle, engine="tflm").info.engine == "tflm"
    assert [environment for environment, *_ in bench.builds] == ["teensy41_tflm"]


def test_a_board_without_a_port_is_flashed_with_force(bench, linear_bundle):
    bench.on_upload = lambda: bench.plug("ttyACM0", our_firmware(linear_bundle)) and None
    assert flash(bench, linear_bundle, force=True).flashed


def test_openocd_is_told_which_probe_is_meant(bench, linear_bundle):
    bench.plug("ttyACM0", our_firmware(linear_bundle), serial_number="066A", **NUCLEO)
    mine = bench.plug("ttyACM1", silent, serial_number="066B", **NUCLEO)

    def on_upload() -> None:
        bench.unplug(mine)
        bench.plug("ttyACM2", our_firmware(linear_bundle, board="nucleo_f446re"), serial_number="066B", **NUCLEO)

    bench.on_upload = on_upload
    result = flash(bench, linear_bundle, board="nucleo_f446re", port=mine.usb.device)
    assert result.port.endswith("ttyACM2")
    (call,) = bench.calls()
    assert "-f interface/stlink.cfg -f target/stm32f4x.cfg -c adapter serial 066B -c program {" in call
    assert call.endswith("nucleo_f446re.elf} verify reset exit")


def test_st_flash_serves_where_openocd_is_missing(bench, linear_bundle, monkeypatch):
    (bench.tools / "openocd").unlink()
    bench.install("st-flash")
    monkeypatch.setenv("PATH", f"{bench.tools}{os.pathsep}/bin")
    bench.plug("ttyACM0", silent, serial_number="066B", **NUCLEO)
    replug(bench, "ttyACM0", our_firmware(linear_bundle, board="nucleo_h743zi"), serial_number="066B", **NUCLEO)
    assert flash(bench, linear_bundle, board="nucleo_h743zi").flashed
    assert bench.calls() == [f"st-flash --serial 066B --reset write {bench.folder}/nucleo_h743zi.bin 0x08000000"]


def test_a_board_of_the_user_s_own_is_flashed_by_platformio(bench, linear_bundle, monkeypatch, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nkind = "serial"\nenvironment = "mine"\nusb_vid = 0x1234\nusb_pid = 0x5678\nbaud = 57600\n'
    )
    monkeypatch.setenv("HIL_BOARDS", str(tmp_path))
    monkeypatch.setattr(flash_tool, "build_lock", contextlib.nullcontext)
    ports = {"vid": 0x1234, "pid": 0x5678}
    board = bench.plug("ttyACM0", silent, **ports)
    replug(bench, "ttyACM0", our_firmware(linear_bundle, board="mine"), **ports)
    calls = []

    def run(command, **options):
        calls.append((command, options["env"]))
        bench.on_upload()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(flash_tool, "run_group", run)
    assert flash(bench, linear_bundle, board="mine").flashed
    ((command, variables),) = calls
    assert command[:5] == [sys.executable, "-m", "platformio", "run", "--environment"]
    assert command[5:] == ["mine", "--project-dir", *command[7:8], "--target", "upload", "--upload-port", board.usb.device]
    assert (variables["HIL_MODEL"], variables["HIL_BAUD"]) == (str(linear_bundle.path), "57600")  # or it would be built again


def test_a_port_that_others_try_first_is_waited_for(bench, linear_bundle):
    """ModemManager opens every new port for a moment."""
    holders = []

    def on_upload() -> None:
        bench.unplug(bench.boards[0])
        holders.append(hold(bench.plug("ttyACM0", our_firmware(linear_bundle))))

    bench.plug("ttyACM0", silent)
    bench.on_upload = on_upload
    real = flashing.connect
    refusals = []

    def connect(*arguments, **options):
        try:
            return real(*arguments, **options)
        except PortBusyError as exc:
            refusals.append(exc)
            holders.pop().close()
            raise

    flashing.connect, restore = connect, flashing.connect
    try:
        assert flash(bench, linear_bundle).flashed
    finally:
        flashing.connect = restore
    assert len(refusals) == 1


def test_the_port_stays_reserved_while_the_flash_tool_has_it(bench, linear_bundle):
    held = []

    def on_upload() -> None:
        held.extend(owner.port for owner in reservations())
        bench.unplug(bench.boards[0])
        bench.plug("ttyACM0", our_firmware(linear_bundle))

    port = bench.plug("ttyACM0", silent).usb.device
    bench.on_upload = on_upload
    assert flash(bench, linear_bundle).flashed
    assert port in held
    assert reservations() == []


# --- a board of the bench's map -------------------------------------------------------------------------------------------


@pytest.fixture
def bench_map(tmp_path, monkeypatch):
    """Writes the map; the flash tools are those of ``bench``."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return lambda text: (tmp_path / "project" / "boards.toml").write_text(text)


def test_a_board_of_the_map_is_flashed_through_its_own_probe_and_verified_on_its_own_port(bench, linear_bundle, bench_map):
    """A port behind a USB adapter, and an ST-Link of another serial number; a second board of the kind is plugged in."""
    bench_map('[rig]\nkind = "nucleo_f446re"\nusb_serial = "FT7"\nprobe = "066B"\nlabels = ["f4"]\n')
    other = bench.plug("ttyACM0", silent, serial_number="066A", **NUCLEO)
    bench.plug(
        "ttyUSB0", our_firmware(linear_bundle, board="nucleo_f446re", model_id=OTHER_MODEL), serial_number="FT7", vid=1, pid=2
    )
    held = []

    def on_upload() -> None:
        held.extend(owner.port for owner in reservations())
        bench.unplug(bench.boards[1])
        bench.plug("ttyUSB5", our_firmware(linear_bundle, board="nucleo_f446re"), serial_number="FT7", vid=1, pid=2)

    bench.on_upload = on_upload
    result = flash(bench, linear_bundle, board="@f4")
    assert (result.board, Path(result.port).name) == ("rig", "ttyUSB5")
    assert "-c adapter serial 066B -c program {" in bench.calls()[0]
    assert {"probe:066B", str(bench.folder / "ttyUSB0")} <= set(held)
    assert other in bench.boards
    assert reservations() == []


def test_the_probe_of_a_board_that_is_not_on_the_map_is_reserved_too(bench, linear_bundle):
    held = []
    bench.plug("ttyACM0", silent, serial_number="066B", **NUCLEO)
    replug(bench, "ttyACM0", our_firmware(linear_bundle, board="nucleo_f446re"), serial_number="066B", **NUCLEO)
    on_upload = bench.on_upload
    bench.on_upload = lambda: (held.extend(owner.port for owner in reservations()), on_upload())
    flash(bench, linear_bundle, board="nucleo_f446re")
    assert "probe:066B" in held


def test_a_board_of_the_map_that_reports_another_type_is_not_flashed(bench, linear_bundle, bench_map):
    bench_map('[rig]\nkind = "nucleo_f446re"\nusb_serial = "066B"\n')
    bench.plug("ttyACM0", our_firmware(linear_bundle, board="nucleo_h743zi"), serial_number="066B", **NUCLEO)
    error = refused(bench, linear_bundle, board="rig")
    assert type(error) is WrongBoardError
    assert "reports that it is nucleo_h743zi, not nucleo_f446re" in error.message
    assert "correct kind of rig in " in error.hint
    assert bench.calls() == []


def test_a_tool_that_takes_any_board_is_not_let_loose_beside_another_of_the_kind(bench, linear_bundle, bench_map):
    bench_map('[rig]\nkind = "teensy41"\nusb_serial = "1"\n')
    for number in range(2):
        bench.plug(f"ttyACM{number}", silent, serial_number=str(number))
    assert "the first one it finds" in refused(bench, linear_bundle, board="rig").message
    assert bench.calls() == []


def test_a_board_of_the_map_whose_probe_is_unknown_is_not_flashed_through_any(bench, linear_bundle, bench_map):
    board = bench.plug("ttyACM0", silent, serial_number=None, **NUCLEO)
    bench_map(f'[rig]\nkind = "nucleo_f446re"\nport = "{board.usb.device}"\n')
    error = refused(bench, linear_bundle, board="rig")
    assert "names no probe of rig, and openocd would use the first that it finds" in error.message
    assert bench.calls() == []


def test_a_board_that_runs_something_else_after_the_flash_is_told(bench, linear_bundle, bench_map):
    """The tool flashed another board: the one on the port of the map still runs its old image."""
    bench_map('[rig]\nkind = "teensy41"\nusb_serial = "S1"\n')
    bench.plug("ttyACM0", our_firmware(linear_bundle, model_id=OTHER_MODEL))
    error = refused(bench, linear_bundle, board="rig", back_timeout_s=SHORT_S)
    assert type(error) is FlashFailedError
    assert f"still runs policy {OTHER_MODEL}" in error.message


# --- one error for each cause -------------------------------------------------------------------------------------------


def test_nothing_is_plugged_in(bench, linear_bundle):
    error = refused(bench, linear_bundle)
    assert type(error) is PortNotFoundError
    assert "no teensy41 is connected (USB 16c0:0483)" in error.message
    assert "--force" in error.hint


def test_a_port_that_does_not_exist(bench, linear_bundle):
    assert type(refused(bench, linear_bundle, port="/dev/ttyNOPE")) is PortNotFoundError


def test_two_boards_match(bench, linear_bundle):
    for number in ("1", "2"):
        bench.plug(f"ttyACM{number}", silent, serial_number=number, **NUCLEO)
    error = refused(bench, linear_bundle, board="nucleo_f446re")
    assert type(error) is AmbiguousBoardError
    assert "ttyACM1 (serial number 1)" in error.message
    assert bench.calls() == []


def test_a_flash_tool_that_takes_any_board_is_not_let_loose_on_two(bench, linear_bundle):
    boards = [bench.plug(f"ttyACM{number}", silent, serial_number=str(number)) for number in range(2)]
    error = refused(bench, linear_bundle, port=boards[0].usb.device)
    assert type(error) is AmbiguousBoardError
    assert "the first one it finds" in error.message


def test_the_port_is_busy(bench, linear_bundle):
    with hold(bench.plug("ttyACM0", silent)):
        error = refused(bench, linear_bundle)
    assert type(error) is PortBusyError
    assert bench.calls() == []


def test_the_board_is_another_one(bench, linear_bundle):
    bench.plug("ttyACM0", our_firmware(linear_bundle, board="nucleo_h743zi"), **NUCLEO)
    error = refused(bench, linear_bundle, board="nucleo_f446re")
    assert type(error) is WrongBoardError
    assert "reports that it is nucleo_h743zi, not nucleo_f446re" in error.message
    assert bench.calls() == []


@pytest.mark.parametrize(
    ("board", "kind", "message"),
    [
        ("native", UsageError, "given the model when it starts"),
        ("serial", UsageError, "names no PlatformIO environment"),
        ("teensy42", UnknownBoardError, "unknown board 'teensy42'"),
    ],
)
def test_boards_that_are_not_flashed(bench, linear_bundle, board, kind, message):
    error = refused(bench, linear_bundle, board=board)
    assert type(error) is kind
    assert message in error.message


def test_a_model_that_the_board_cannot_take_is_refused_before_anything_is_built(bench, linear_bundle):
    (linear_bundle.path / INT8_MODEL).write_bytes(linear(np.ones((2, MAX_VALUES + 1)), 1.0))
    bench.plug("ttyACM0", our_firmware(linear_bundle, model_id=OTHER_MODEL))
    assert f"its inputs take {MAX_VALUES + 1} bytes" in refused(bench, linear_bundle).message
    assert bench.calls() == []


def test_the_firmware_is_built_for_the_rate_asked_for(bench, linear_bundle):
    bench.plug("ttyACM0", our_firmware(linear_bundle, model_id=OTHER_MODEL))
    replug(bench, "ttyACM1", our_firmware(linear_bundle))
    flash(bench, linear_bundle, baud=115_200)
    assert [baud for *_, baud in bench.builds] == [115_200]


def test_an_engine_that_does_not_exist(bench, linear_bundle):
    assert "the board teensy41 has no engine 'onnx'" in refused(bench, linear_bundle, engine="onnx").message


def test_the_build_fails(bench, linear_bundle):
    bench.plug("ttyACM0", silent)
    bench.build_error = FirmwareBuildError("main.cpp:3:1: error: nope", "see it")
    assert refused(bench, linear_bundle) is bench.build_error
    assert bench.calls() == []


def test_the_tflm_library_is_missing(bench, linear_bundle):
    error = refused(bench, linear_bundle, engine="tflm")
    assert type(error) is FlashToolMissingError
    assert "HIL_TFLM_LIB is not set" in error.message
    assert "--engine int8" in error.hint


@pytest.mark.parametrize("board", ["teensy41", "nucleo_f446re", "nano33ble"])
def test_a_folder_with_a_space_or_braces_stays_one_word(board):
    definition = find_definition(board)
    port = SerialPort(device="/dev/x", description="", vid=None, pid=None, serial_number="S 1", accessible=True, group=None)
    file = Path("/my {home}/image.elf")
    words = flash_tool._arguments(TOOLS[definition.upload][0], definition, board, file, port)
    assert sum(str(file) in word for word in words) == 1
    assert not any("my" in word and str(file) not in word for word in words)


def test_without_a_platform_its_command_is_named_before_anything_else(bench, linear_bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(flashing, "check_board_tools", firmware_build.check_board_tools)
    monkeypatch.setattr(firmware_build, "PROJECT", tmp_path)
    error = refused(bench, linear_bundle)
    assert type(error) is FlashToolMissingError
    assert "needs PlatformIO's platform teensy, which is not installed" in error.message
    assert error.hint == f"install it, from the network: pio pkg install --project-dir {tmp_path} -e teensy41"
    assert bench.builds == []


@pytest.mark.parametrize(
    ("board", "named", "command"),
    [
        ("teensy41", "teensy_loader_cli", "apt-get install teensy-loader-cli"),
        ("nucleo_h743zi", "openocd or st-flash", "apt-get install openocd"),
        ("esp32s3", "esptool", "pip install esptool"),
        ("nano33ble", "bossac", "pio pkg install --global --tool tool-bossac-nordicnrf52"),
    ],
)
def test_a_flash_tool_that_is_missing_is_named_with_its_command(bench, linear_bundle, monkeypatch, board, named, command):
    monkeypatch.setenv("PATH", "")
    error = refused(bench, linear_bundle, board=board)
    assert type(error) is FlashToolMissingError
    assert f"flashing {board} needs {named}, which is not installed" in error.message
    assert error.hint == f"install it: {command}"


def test_platformio_s_own_package_comes_before_path(tmp_path, monkeypatch):
    monkeypatch.setattr(flash_tool, "PROJECT", tmp_path)
    for package in ("tool-bossac-nordicnrf52/bossac", "tool-esptoolpy/esptool.py"):
        path = tmp_path / ".platformio/packages" / package
        path.parent.mkdir(parents=True)
        path.touch()
    nano, esp = (flash_tool.installed_tool(find_definition(name)) for name in ("nano33ble", "esp32s3"))
    assert nano.words == (str(tmp_path / ".platformio/packages/tool-bossac-nordicnrf52/bossac"),)
    assert esp.words == (sys.executable, str(path))


ENDS = tomllib.loads(Path(__file__).with_name("flash_tool_ends.toml").read_text())["end"]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: f"{end['tool']}, {end['name']}")
def test_how_a_flash_tool_fails_is_told(bench, linear_bundle, monkeypatch, end):
    if end["tool"] == "st-flash":
        (bench.tools / "openocd").unlink()
        bench.install("st-flash")
        monkeypatch.setenv("PATH", f"{bench.tools}{os.pathsep}/bin")
    monkeypatch.setattr(flash_tool, "_flash_images", lambda environment, file: ["0x10000", str(file)])
    definition = find_definition(end["board"])
    bench.plug("ttyACM0", silent, vid=definition.usb_vid, pid=definition.usb_pid)
    bench.upload_script = f"cat <<'END'\n{end['output']}END\nexit {end['status']}"
    error = refused(bench, linear_bundle, board=end["board"])
    assert type(error).__name__ == end["error"]
    assert end["message"] in error.message
    assert f"(exit status {end['status']})" in error.message
    assert error.hint
    assert [call.split()[0] for call in bench.calls()] == [end["tool"]]


def test_debian_s_bossac_knows_no_nrf52_and_the_hint_says_which_does(bench, linear_bundle):
    bench.plug("ttyACM0", silent, vid=0x2341, pid=0x805A)
    bench.upload_script = "echo; echo 'Device unsupported'; exit 1"
    assert "Debian's bossac knows no nRF52: pio pkg install" in refused(bench, linear_bundle, board="nano33ble").hint


def test_a_boot_loader_has_a_port_of_its_own(bench, linear_bundle, monkeypatch):
    """Opening the port at 1200 baud replaces the board's port by that of its boot loader."""
    old = bench.plug("ttyACM0", our_firmware(linear_bundle, board="nano33ble", model_id=OTHER_MODEL), vid=0x2341, pid=0x805A)
    rates = []

    def open_port(device: str, rate: int) -> serial.Serial:
        rates.append((device, rate))
        port = serial.Serial(device, rate)
        bench.unplug(old)
        bench.plug("ttyACM1", silent, vid=0x2341, pid=0x005A)
        return port

    names = SimpleNamespace(Serial=open_port, SerialException=serial.SerialException)
    monkeypatch.setattr(flash_tool, "serial", names)
    replug(bench, "ttyACM0", our_firmware(linear_bundle, board="nano33ble"), vid=0x2341, pid=0x805A)
    assert flash(bench, linear_bundle, board="nano33ble").flashed
    assert rates == [(old.usb.device, 1200)]
    assert f"--port={bench.folder}/ttyACM1 -U -e -w -R " in bench.calls()[0]


def test_esptool_writes_boot_loader_partitions_and_application(bench, linear_bundle, monkeypatch):
    extra = {"flash_images": [{"offset": "0x0000", "path": "/b/bootloader.bin"}], "application_offset": "0x10000"}
    answer = json.dumps({"esp32s3": {"extra": extra}})
    real = flash_tool.run_group

    def run(command, **options):
        return subprocess.CompletedProcess(command, 0, answer, "") if "metadata" in command else real(command, **options)

    monkeypatch.setattr(flash_tool, "run_group", run)
    monkeypatch.setattr(flash_tool, "build_lock", contextlib.nullcontext)
    board = bench.plug("ttyACM0", silent, vid=0x303A, pid=0x1001)
    replug(bench, "ttyACM0", our_firmware(linear_bundle, board="esp32s3"), vid=0x303A, pid=0x1001)
    assert flash(bench, linear_bundle, board="esp32s3").flashed
    assert bench.calls() == [
        f"esptool --chip esp32s3 --port {board.usb.device} --baud 460800 --after hard_reset "
        f"write_flash 0x0000 /b/bootloader.bin 0x10000 {bench.folder}/esp32s3.bin"
    ]
    answer = "{}"
    error = refused(bench, linear_bundle, board="esp32s3", force=True)
    assert type(error) is FlashFailedError
    assert "does not tell which images esp32s3 consists of" in error.message


def test_an_upload_that_waits_for_ever_is_stopped(bench, linear_bundle, monkeypatch):
    monkeypatch.setattr(flash_tool, "UPLOAD_TIMEOUT_S", SHORT_S)
    bench.plug("ttyACM0", silent)
    bench.upload_script = "sleep 600"
    error = refused(bench, linear_bundle)
    assert type(error) is FlashFailedError
    assert "did not end within 0.6 s" in error.message


def test_the_board_does_not_come_back(bench, linear_bundle):
    bench.plug("ttyACM0", silent)
    bench.on_upload = lambda: bench.unplug(bench.boards[0])
    error = refused(bench, linear_bundle, back_timeout_s=SHORT_S)
    assert type(error) is BoardNotBackError
    assert "did not come back within 0.6 s" in error.message


def test_another_board_that_appears_is_not_taken_for_it(bench, linear_bundle):
    bench.plug("ttyACM0", silent, serial_number="S1")
    replug(bench, "ttyACM1", our_firmware(linear_bundle), serial_number="S2")
    assert type(refused(bench, linear_bundle, back_timeout_s=SHORT_S)) is BoardNotBackError


@pytest.mark.parametrize(("answer", "said"), [(silent, "is silent"), (banner, "does not run this project's firmware")])
def test_the_board_comes_back_and_is_no_firmware_of_ours(bench, linear_bundle, answer, said):
    bench.plug("ttyACM0", silent)
    replug(bench, "ttyACM0", answer)
    error = refused(bench, linear_bundle, back_timeout_s=SHORT_S)
    assert type(error) is BoardNotBackError
    assert "was flashed and does not run the image" in error.message
    assert said in error.message
    assert "--force" in error.hint


@pytest.mark.parametrize("stale", [{"model_id": OTHER_MODEL}, {"firmware_commit": "9" * 12}])
def test_the_tool_reports_success_and_the_old_image_still_runs(bench, linear_bundle, stale):
    bench.plug("ttyACM0", our_firmware(linear_bundle, **stale))
    replug(bench, "ttyACM0", our_firmware(linear_bundle, **stale))
    error = refused(bench, linear_bundle, back_timeout_s=SHORT_S)
    assert type(error) is FlashFailedError
    assert "reported success, but the board" in error.message


def test_an_engine_that_computes_the_model_wrongly(bench, linear_bundle):
    bench.plug("ttyACM0", silent)
    wrong = {"engine_status": Status.SELF_TEST_FAILED, "engine_detail": 8, "engine_message": "golden vectors"}
    replug(bench, "ttyACM0", our_firmware(linear_bundle, **wrong))
    error = refused(bench, linear_bundle)
    assert type(error) is BoardStatusError
    assert error.status == "self_test_failed"
    assert "old TFLM" in error.hint


# --- the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [False, True])
def test_json(bench, ppo_bundle, changed):
    bench.plug("ttyACM0", our_firmware(ppo_bundle, **({"model_id": OTHER_MODEL} if changed else {})))
    replug(bench, "ttyACM0", our_firmware(ppo_bundle))
    bench.start()
    done = CliRunner().invoke(flash_command.command, [str(ppo_bundle.path), "--board", "teensy41", "--json"])
    assert done.exception is None, done.exception
    document = json.loads(done.stdout)
    assert document["flashed"] is changed
    assert (document["model_id"], document["engine"], document["board"]) == (ppo_bundle.id, "int8", "teensy41")


def test_one_line_for_people(bench, ppo_bundle):
    bench.plug("ttyACM0", our_firmware(ppo_bundle))
    done = CliRunner().invoke(flash_command.command, [str(ppo_bundle.path), "--board", "teensy41"])
    assert f"already ran policy {ppo_bundle.id} with the engine int8" in done.stdout.replace("\n", " ")


def test_a_model_without_a_bundle(bench, ppo_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MODELS", tmp_path / "cache")
    table = {"observation": list("abcdef"), "action": ["left", "right"], "control_period_ms": 5}
    (tmp_path / "signals.yaml").write_text(json.dumps(table))
    bench.plug("ttyACM0", our_firmware(ppo_bundle))
    model = str(ppo_bundle.file(INT8_MODEL))
    done = CliRunner().invoke(flash_command.command, [model, "--spec", str(tmp_path / "signals.yaml"), "--board", "teensy41"])
    assert f"already ran policy {ppo_bundle.id}" in done.stdout.replace("\n", " "), done.exception
