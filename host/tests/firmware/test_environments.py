"""platformio.ini and the boards' files agree; TFLM images say what they miss, and build where it is there."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from balance_hil.boards import BoardDefinition, load_definitions
from balance_hil.firmware_build import PROJECT, build_lock, platformio_settings, prepare_platformio

PHYSICAL = ("teensy41", "esp32s3", "nucleo_h743zi", "nano33ble")
LIBRARY = os.environ.get("HIL_TFLM_LIB", "")
NO_LIBRARY = "HIL_TFLM_LIB is not set: TFLM's C++ library is not part of this repository; docs/boards.md says how to get it"


@pytest.fixture(scope="module")
def boards() -> dict[str, BoardDefinition]:
    return load_definitions(PROJECT / "host/balance_hil/boards/definitions")


@pytest.fixture(scope="module")
def environments() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(PROJECT / "platformio.ini")
    return parser


def option(parser: configparser.ConfigParser, section: str, name: str) -> str:
    """Value of an option, through ``extends``: the last section named wins, as PlatformIO has it."""
    if name in parser[section]:
        return parser[section][name]
    parents = [parent.strip() for parent in parser[section].get("extends", "").split(",") if parent.strip()]
    return next((value for parent in reversed(parents) if (value := option(parser, parent, name))), "")


@pytest.mark.parametrize("name", PHYSICAL)
def test_a_board_file_says_what_platformio_ini_says(boards, environments, name) -> None:
    board = boards[name]
    section = f"env:{board.environment}"
    assert board.platform == option(environments, section, "platform")
    assert board.framework == option(environments, section, "framework")
    assert "board_engine/int8.cpp" in option(environments, section, "build_src_filter")
    assert "board_engine/tflm.cpp" in option(environments, f"{section}_tflm", "build_src_filter")
    assert option(environments, f"{section}_tflm", "platform") == board.platform
    assert "tflm_library.py" not in option(environments, section, "extra_scripts")
    assert "tflm.extra_scripts}" in option(environments, f"{section}_tflm", "extra_scripts")
    flags = option(environments, f"{section}_tflm", "build_flags")
    assert flags == f"${{{section}.build_flags}} ${{tflm.build_flags}}"


@pytest.mark.parametrize("name", PHYSICAL)
def test_a_board_file_is_complete(boards, name) -> None:
    board = boards[name]
    assert board.kind == "serial"
    assert all((board.description, board.tflm, board.port_kind, board.tried, board.notes))


@pytest.fixture
def pio(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``pio run`` in a build folder of its own: PlatformIO wipes the usual one whenever a variable of platformio.ini changes."""
    return partial(_pio, tmp_path)


def _pio(build_folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HIL_TFLM_LIB"}
    command = [sys.executable, "-m", "platformio", "run", "--project-dir", str(PROJECT), *arguments]
    with build_lock():
        prepare_platformio()
        return subprocess.run(
            command,
            env=environment | platformio_settings(arguments[-1]) | {"PLATFORMIO_BUILD_DIR": str(build_folder)} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.mark.parametrize(
    ("variables", "fact"),
    [
        ({}, "HIL_TFLM_LIB is not set"),
        ({"HIL_TFLM_LIB": str(Path(__file__).parent)}, "holds no library with tensorflow/lite/micro"),
    ],
)
def test_a_tflm_image_without_the_library_says_what_is_missing(pio, variables, fact) -> None:
    done = pio("--environment", "qemu_m4_tflm", **variables)
    assert done.returncode != 0
    assert fact in done.stdout
    assert "HIL_TFLM_LIB=/path/to/libraries" in done.stdout
    assert "pio run -e qemu_m4\n" in done.stdout


@pytest.mark.slow
def test_the_rate_of_the_port_is_set_at_build(pio, tmp_path) -> None:
    done = pio("--environment", "arduino_test", HIL_BAUD="115200")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "#define HIL_BAUD 115200\n" in (tmp_path / "arduino_test/generated/build_info.h").read_text()
    done = pio("--environment", "arduino_test", HIL_BAUD="fast")
    assert done.returncode != 0
    assert "HIL_BAUD=fast is no number of bits per second" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.skipif(not LIBRARY, reason=NO_LIBRARY)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("environment", ["qemu_m4_tflm", "qemu_m7_tflm"])
def test_a_tflm_image_builds_with_the_library(pio, environment) -> None:
    done = pio("--environment", environment, HIL_TFLM_LIB=LIBRARY)
    assert done.returncode == 0, done.stdout[-3000:]
