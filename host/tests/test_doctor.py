"""hil doctor names what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from balance_hil import doctor
from balance_hil.boards import flash_tool
from balance_hil.boards.kinds import rp2040

real_version = importlib.metadata.version


@pytest.mark.parametrize(
    ("package", "state", "cure"),
    [
        ("tflite-micro", "missing", "make setup"),
        ("torch", "optional", "make setup"),
        ("cobs", "missing", "make setup"),
    ],
)
def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch, package: str, state: str, cure: str) -> None:
    def version(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = {check.name: check for check in doctor.run_checks()}
    assert (checks[package].state, checks[package].hint) == (state, cure)
    assert doctor.is_healthy(list(checks.values())) == (state == "optional")


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "g++" else which(name))
    checks = {check.name: check for check in doctor.run_checks()}
    assert checks["C++ compiler"].state == "missing"
    assert checks["C++ compiler"].hint == "apt-get install g++"


def test_no_display_is_no_illness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    checks = doctor.run_checks()
    assert {check.name: check.state for check in checks}["display"] == "optional"
    assert doctor.is_healthy(checks)


def test_a_serial_port_group_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.getgroups", list)
    checks = {check.name: check for check in doctor.run_checks()}
    assert checks["serial ports"].state == "optional"
    assert "usermod -aG dialout" in checks["serial ports"].hint


def test_where_tflm_has_no_wheel_it_is_emulated_and_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "tflite-micro":
            raise importlib.metadata.PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "wheel_exists", lambda: False)
    check = doctor._distribution("int8", "tflite-micro", "the tflm runtime")
    assert (check.state, check.hint) == ("ok", "")
    assert "emulated" in check.found


def test_flash_tools_are_told_with_the_boards_that_need_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(flash_tool, "PROJECT", tmp_path)  # without PlatformIO's packages
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/st-flash" if name == "st-flash" else None)
    checks = {check.name: check for check in doctor._flash_tools()}
    assert {name: (check.state, check.found, check.hint) for name, check in checks.items()} == {
        "teensy_loader_cli": ("optional", "not installed; needed to flash teensy41", "apt-get install teensy-loader-cli"),
        "openocd or st-flash": ("ok", "/usr/bin/st-flash", ""),
        "esptool": ("optional", "not installed; needed to flash esp32s3", "pip install esptool"),
        "bossac": (
            "optional",
            "not installed; needed to flash nano33ble",
            "pio pkg install --global --tool tool-bossac-nordicnrf52",
        ),
    }


def test_an_emulator_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rp2040, "EMULATORS", tmp_path)
    assert doctor._rp2040().hint == f"install it: npm install --prefix {tmp_path} rp2040js@1.4.1"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor._rp2040().hint == "install it: apt-get install nodejs npm"
