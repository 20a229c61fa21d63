"""Uploads through an ST-Link, with stand-ins for Debian's tools on PATH."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from balance_hil.paths import SHIPPED

SCRIPTS = ["interface/stlink.cfg", "target/stm32f4x.cfg"]


@pytest.fixture
def stlink() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stlink", SHIPPED / "firmware" / "platform" / "stlink.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("HIL_PROBE_SERIAL", raising=False)
    log = tmp_path / "log"

    def install(name: str, status: int = 0) -> Path:
        (folder / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> {log}\nexit {status}\n')
        (folder / name).chmod(0o755)
        return log

    return install


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.elf"


def test_openocd_writes_verifies_and_restarts(stlink, tools, program, monkeypatch):
    log = tools("openocd")
    assert stlink.upload(program, SCRIPTS, "true") == 0
    monkeypatch.setenv("HIL_PROBE_SERIAL", "066B")
    assert stlink.upload(program, SCRIPTS, "true") == 0
    anyone, mine = log.read_text().splitlines()
    assert anyone == f"openocd -f interface/stlink.cfg -f target/stm32f4x.cfg -c program {{{program}}} verify reset exit"
    assert "-c adapter serial 066B" in mine


def test_st_flash_serves_where_openocd_is_missing(stlink, tools, program, monkeypatch):
    log = tools("st-flash")
    monkeypatch.setattr(stlink.shutil, "which", lambda name: name if name == "st-flash" else None)
    monkeypatch.setenv("HIL_PROBE_SERIAL", "066B")
    assert stlink.upload(program, SCRIPTS, "true") == 0
    assert log.read_text() == f"st-flash --serial 066B --reset write {program.with_suffix('.bin')} 0x08000000\n"


def test_a_tool_that_fails_fails_the_upload(stlink, tools, program):
    tools("openocd", status=1)
    assert stlink.upload(program, SCRIPTS, "true") == 1


def test_without_a_tool_the_message_names_the_package(stlink, program, monkeypatch, capfd):
    monkeypatch.setattr(stlink.shutil, "which", lambda name: None)
    assert stlink.upload(program, SCRIPTS, "true") == 127
    assert "openocd: not found" in capfd.readouterr().err
