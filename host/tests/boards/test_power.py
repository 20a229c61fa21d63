"""Power switches: commands and ports of USB hubs."""

from __future__ import annotations

from pathlib import Path

import pytest

from balance_hil.boards import connect, power, power_cycled, reservation
from balance_hil.boards.kinds import serial as serial_kind
from balance_hil.boards.place import Place
from balance_hil.boards.power import switch
from balance_hil.errors import (
    FlashToolMissingError,
    PortBusyError,
    PortNotFoundError,
    PowerSwitchError,
    ReplyTimeoutError,
    UsageError,
)

from .flash_bench import Bench, our_firmware
from .holder import another_user

MAP = Path("boards.toml")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(power, "OFF_S", 0.0)
    monkeypatch.setattr(reservation, "LOCKS", tmp_path / "locks")


def relay(tmp_path: Path, lines: str = "") -> Path:
    program = tmp_path / "bin" / "relay"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n{lines}\n')
    program.chmod(0o755)
    return program


def test_a_command_gets_on_and_off_as_words(tmp_path: Path) -> None:
    place = Place(name="a", kind="native", power=f"{relay(tmp_path)} '3 x' --{{action}}", file=MAP)
    said: list[str] = []
    for action in ("on", "off", "cycle"):
        switch(place, action, said.append)  # type: ignore[arg-type]
    assert (tmp_path / "log").read_text().splitlines() == ["3 x --on", "3 x --off", "3 x --off", "3 x --on"]
    assert said[-2:] == ["a: power off", "a: power on"]


def test_a_port_of_a_hub_is_switched_by_uhubctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(name="a", kind="native", hub="1-1.4", hub_port=2, file=MAP)
    relay(tmp_path).rename(tmp_path / "bin" / "uhubctl")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    switch(place, "off")
    assert (tmp_path / "log").read_text() == "--location 1-1.4 --ports 2 --action off\n"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FlashToolMissingError) as caught:
        switch(place, "off")
    assert caught.value.hint == "apt-get install uhubctl"


def test_a_switch_that_fails_or_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"a has no power switch in boards.toml"):
        switch(Place(name="a", kind="native", file=MAP), "on")
    with pytest.raises(FlashToolMissingError, match="needs no-such-relay, which is not installed"):
        switch(Place(name="a", kind="native", power="no-such-relay {action}", file=MAP), "on")
    place = Place(name="a", kind="native", power=f"{relay(tmp_path, 'echo jammed >&2; exit 3')} {{action}}", file=MAP)
    with pytest.raises(PowerSwitchError, match="failed with exit status 3: jammed") as caught:
        switch(place, "on")
    assert caught.value.hint == f"try it: {tmp_path}/bin/relay on"
    monkeypatch.setattr(power, "SWITCH_TIMEOUT_S", 0.1)
    hanging = Place(name="a", kind="native", power=f"{relay(tmp_path, 'read line < /dev/zero')} {{action}}", file=MAP)
    with pytest.raises(PowerSwitchError, match="timed out"):
        switch(hanging, "on")


def test_a_hanging_board_comes_back_under_another_name_after_its_power_was_cycled(
    tmp_path: Path, linear_bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(serial_kind, "list_serial_ports", bench.ports)
    monkeypatch.chdir(tmp_path)
    MAP.write_text(f'[rig]\nkind = "teensy41"\nusb_serial = "S1"\npower = "{relay(tmp_path)} {{action}}"\n')
    hangs, switched = [False], []
    answer = our_firmware(linear_bundle)
    first = bench.plug("ttyACM0", lambda data: b"" if hangs[0] else answer(data))

    def run(words: list[str], place: Place) -> None:
        switched.append(words[-1])
        if words[-1] == "off":
            bench.unplug(first)
        else:
            bench.plug("ttyACM7", our_firmware(linear_bundle))

    monkeypatch.setattr(power, "_run", run)
    try:
        with connect("rig", linear_bundle, handshake_timeout_s=0.5) as board:
            hangs[0] = True
            with pytest.raises(ReplyTimeoutError):
                board.identify()
            board.power_cycle()
            assert Path(board.port).name == "ttyACM7"
            assert switched == ["off", "on"]
    finally:
        bench.close()


def test_a_board_is_power_cycled_without_a_session(tmp_path: Path, linear_bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(serial_kind, "list_serial_ports", bench.ports)
    monkeypatch.chdir(tmp_path)
    switched = f'power = "{relay(tmp_path)} {{action}}"'
    MAP.write_text(f'[rig]\nkind = "teensy41"\nusb_serial = "S1"\n{switched}\n[emulated]\nkind = "native"\n{switched}\n')
    bench.plug("ttyACM0", our_firmware(linear_bundle))
    try:
        assert power_cycled("rig")
        assert (tmp_path / "log").read_text() == "off\non\n"
        assert not power_cycled("emulated")
        with another_user(reservation.board("rig", MAP.resolve()), name="rig"), pytest.raises(PortBusyError):
            power_cycled("rig")
        assert (tmp_path / "log").read_text() == "off\non\n"
    finally:
        bench.close()


def test_a_board_that_does_not_come_back_is_named(tmp_path: Path, linear_bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(serial_kind, "list_serial_ports", bench.ports)
    monkeypatch.setattr(power, "BACK_TIMEOUT_S", 0.1)
    monkeypatch.chdir(tmp_path)
    MAP.write_text(f'[rig]\nkind = "teensy41"\nusb_serial = "S1"\npower = "{relay(tmp_path)} {{action}}"\n')
    board = bench.plug("ttyACM0", our_firmware(linear_bundle))
    try:
        with connect("rig", linear_bundle) as opened:
            bench.unplug(board)
            with pytest.raises(PortNotFoundError, match="no rig is connected"):
                opened.power_cycle()
    finally:
        bench.close()


def test_a_board_without_a_switch_cannot_be_cycled(tmp_path: Path, linear_bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(serial_kind, "list_serial_ports", bench.ports)
    monkeypatch.chdir(tmp_path)
    MAP.write_text('[rig]\nkind = "teensy41"\nusb_serial = "S1"\n')
    bench.plug("ttyACM0", our_firmware(linear_bundle))
    try:
        with connect("rig", linear_bundle) as opened, pytest.raises(UsageError, match="cannot operate the power"):
            opened.power_cycle()
    finally:
        bench.close()
