"""Flashing by a boot drive, against folders that behave as the drive of a Raspberry Pi Pico does."""

from __future__ import annotations

import os
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from balance_hil.boards import boot_drive, find_definition
from balance_hil.boards.boot_drive import INFO_FILE, copy_image, find_drive
from balance_hil.boards.flash import FlashConfig, flash
from balance_hil.boards.kinds import rp2040
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.rp2040 import Rp2040Machine
from balance_hil.bundle import Bundle
from balance_hil.cli import flash as flash_command
from balance_hil.errors import (
    AmbiguousBoardError,
    FlashFailedError,
    HarnessError,
    LinkError,
    PortNotFoundError,
    UsageError,
    WrongBoardError,
)
from balance_hil.model_image import ModelImage

BLOCKS = 100


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.uf2"
    head = struct.pack("<8I", 0x0A324655, 0x9E5D5157, 0x2000, 0x1000_0000, 256, 0, BLOCKS, 0xE48B_FF56)
    path.write_bytes((head + bytes(476) + struct.pack("<I", 0x0AB16F30)) * BLOCKS)
    return path


class FakeDrive:
    """A board in its boot loader: its folder goes away once a whole image, or so many bytes of one, have arrived."""

    def __init__(self, folder: Path, board: str = "RPI-RP2", vanishes_after: int | None = None) -> None:
        folder.mkdir(parents=True)
        (folder / INFO_FILE).write_text(f"UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: {board}\n")
        self.folder = folder
        self.vanishes_after = vanishes_after
        self.taken = b""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set() and self.folder.exists():
            data = b"".join(path.read_bytes() for path in self.folder.glob("*.uf2"))
            whole = len(data) >= 512 and len(data) == 512 * struct.unpack_from("<I", data, 24)[0]
            if whole and self.vanishes_after is None:
                self.taken = data
                shutil.rmtree(self.folder)
            time.sleep(0.005)

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., FakeDrive]]:
    drives: list[FakeDrive] = []

    def plug(name: str = "RPI-RP2", **options: object) -> FakeDrive:
        drives.append(FakeDrive(tmp_path / "media" / name, **options))  # type: ignore[arg-type]
        return drives[-1]

    yield plug
    for each in drives:
        each.close()


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_drive, "_mounted", lambda: sorted((tmp_path / "media").glob("*")))


def test_the_whole_image_is_copied_and_the_board_restarts(drive, mounted, image: Path):
    board = drive()
    copy_image(image, find_drive(None, image))
    assert board.taken == image.read_bytes()


def test_no_drive_and_a_folder_that_is_none(mounted, image: Path, tmp_path: Path):
    with pytest.raises(PortNotFoundError, match="no boot drive is mounted") as caught:
        find_drive(None, image)
    assert "hold BOOTSEL" in caught.value.hint
    with pytest.raises(PortNotFoundError, match="is not a boot drive"):
        find_drive(tmp_path, image)


def test_a_drive_of_another_chip_is_refused_and_the_right_one_found_beside_it(drive, mounted, image: Path):
    drive("OTHER", board="RP2350")
    with pytest.raises(WrongBoardError, match="belongs to RP2350, the image is for RPI-RP2"):
        find_drive(None, image)
    right = drive()
    assert find_drive(None, image) == right.folder


def test_two_boards_that_wait_are_not_guessed_between(drive, mounted, image: Path):
    drive("A"), drive("B")
    with pytest.raises(AmbiguousBoardError, match="2 boards wait"):
        find_drive(None, image)


@pytest.mark.parametrize("syncs", [0, 1])
def test_a_drive_that_vanishes_while_it_is_written_is_no_success(drive, image: Path, monkeypatch: pytest.MonkeyPatch, syncs: int):
    """The system takes data that never reaches the board: only what is synchronized counts."""
    monkeypatch.setattr(boot_drive, "_CHUNK_BYTES", 50 * 512)
    board = drive(vanishes_after=0)
    done = []

    def fsync(descriptor: int) -> None:
        if len(done) == syncs:
            shutil.rmtree(board.folder)
            raise OSError(5, "Input/output error")
        done.append(descriptor)

    monkeypatch.setattr(boot_drive.os, "fsync", fsync)
    with pytest.raises(FlashFailedError, match=f"failed after {50 * 512 * syncs} of 51200 bytes: Input/output error") as caught:
        copy_image(image, board.folder)
    assert "no whole image" in caught.value.hint


def test_a_board_that_restarts_with_the_last_block_has_taken_the_image(drive, image: Path, monkeypatch: pytest.MonkeyPatch):
    board = drive(vanishes_after=0)
    written = []

    def fsync(descriptor: int) -> None:
        written.append((board.folder / image.name).stat().st_size)
        if written[-1] == 512 * BLOCKS:
            shutil.rmtree(board.folder)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(boot_drive.os, "fsync", fsync)
    copy_image(image, board.folder)
    assert written == [512 * (BLOCKS - 1), 512 * BLOCKS]


def test_a_drive_that_is_full_is_told_also_at_the_last_block(drive, image: Path, monkeypatch: pytest.MonkeyPatch):
    board = drive(vanishes_after=0)

    def fsync(descriptor: int) -> None:
        if (board.folder / image.name).stat().st_size == 512 * BLOCKS:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(boot_drive.os, "fsync", fsync)
    with pytest.raises(FlashFailedError, match=f"failed after {512 * (BLOCKS - 1)} of 51200 bytes: No space left on device"):
        copy_image(image, board.folder)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda data: data[:-512], FlashFailedError, "is no whole UF2 file"),
        (lambda data: b"ELF" + data[3:], FlashFailedError, "is no whole UF2 file"),
        (lambda data: b"", FlashFailedError, "is no whole UF2 file"),
        (lambda data: data.replace(struct.pack("<I", 0xE48B_FF56), struct.pack("<I", 0x5EE2_1072)), WrongBoardError,
         "is for chips of the UF2 family 0x5ee21072, not for RPI-RP2"),
    ],
    ids=["cut short", "something else", "empty", "STM32F103"],
)  # fmt: skip
def test_an_image_for_another_family_or_none_at_all_is_refused(drive, mounted, image: Path, change, error, said: str):
    board = drive()
    image.write_bytes(change(image.read_bytes()))
    with pytest.raises(error, match=said):
        find_drive(None, image)
    assert not list(board.folder.glob("*.uf2"))


def test_a_board_that_does_not_restart_is_no_success(drive, image: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(boot_drive, "RESTART_TIMEOUT_S", 0.1)
    board = drive(vanishes_after=10**9)
    with pytest.raises(FlashFailedError, match="did not take the image"):
        copy_image(image, board.folder)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    monkeypatch.setattr("balance_hil.boards.flash.build_image", lambda *_, **options: image.with_suffix(".elf"))


def test_hil_flash_copies_the_image_and_says_that_nothing_was_verified(drive, mounted, built, image: Path, ppo_bundle: Bundle):
    board = drive()
    done = CliRunner().invoke(flash_command.command, [str(ppo_bundle.path), "--board", "pico"])
    assert done.exit_code == 0, done.output
    assert "not verified" in done.output
    assert board.taken == image.read_bytes()


def test_what_a_boot_drive_cannot_do_is_refused(ppo_bundle: Bundle, built, tmp_path: Path):
    for options, said in (
        ({"board": "pico", "baud": 115_200}, "fixed rate"),
        ({"board": "teensy41", "drive": tmp_path}, "has no boot drive"),
        ({"board": "qemu-m4"}, "is emulated"),
    ):
        with pytest.raises(UsageError, match=said):
            flash(FlashConfig(bundle=ppo_bundle, **options))


def test_a_drive_that_is_there_before_a_board_of_the_map_was_sent_to_its_boot_loader_is_not_written(
    drive, mounted, built, ppo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It may be another board's."""
    monkeypatch.chdir(tmp_path)
    Path("boards.toml").write_text('[rig]\nkind = "pico"\nport = "socket://127.0.0.1:4000"\n')
    board = drive()
    with pytest.raises(AmbiguousBoardError, match="may be another board's than that of rig") as caught:
        flash(FlashConfig(bundle=ppo_bundle, board="rig", engine="int8"))
    assert f"--drive {board.folder}" in caught.value.hint
    assert not board.taken


def test_a_port_that_answers_with_nothing_after_the_copy_is_an_error(drive, mounted, built, image: Path, ppo_bundle: Bundle):
    drive()
    with pytest.raises(HarnessError):
        flash(FlashConfig(bundle=ppo_bundle, board="pico", port=str(image), back_timeout_s=0.2))


@pytest.fixture
def running(ppo_bundle: Bundle) -> Iterator[tuple[Rp2040Machine, str]]:
    """A Pico that runs, emulated, and its port."""
    try:
        rp2040.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    machine = Rp2040Machine(find_definition("pico"), EmulationConfig(name="pico", engine="int8", image=ModelImage.of(ppo_bundle)))
    try:
        yield machine, machine.start_unopened()
    finally:
        machine.close()


def test_a_running_board_is_sent_to_its_boot_loader_without_a_button(
    running, drive, mounted, built, image: Path, ppo_bundle: Bundle
):
    machine, port = running
    plugged = []

    def progress(line: str) -> None:
        if line.startswith("starting the boot loader"):
            plugged.append(drive())
        elif line == "waiting for the board to come back":
            machine.press_reset()  # in place of the restart with the new image

    result = flash(FlashConfig(bundle=ppo_bundle, board="pico", port=port, engine="int8"), progress)
    assert [board.taken for board in plugged] == [image.read_bytes()]
    assert result.info is not None
    assert (result.port, result.info.model_id) == (port, ppo_bundle.id)


def test_a_boot_loader_whose_drive_is_not_mounted_is_told(
    running, mounted, built, ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("balance_hil.boards.flash.DRIVE_TIMEOUT_S", 0.1)
    with pytest.raises(PortNotFoundError, match="was sent to its boot loader, and no boot drive was mounted") as caught:
        flash(FlashConfig(bundle=ppo_bundle, board="pico", port=running[1], engine="int8"))
    assert "--drive FOLDER" in caught.value.hint


def test_a_board_that_does_not_answer_is_put_into_its_boot_loader_by_hand(mounted, built, ppo_bundle, monkeypatch):
    monkeypatch.setattr("balance_hil.boards.flash.ASK_TIMEOUT_S", 0.2)
    silent, port = os.openpty()
    try:
        with pytest.raises(LinkError, match="the boot loader was not started: ") as caught:
            flash(FlashConfig(bundle=ppo_bundle, board="pico", port=os.ttyname(port), engine="int8"))
    finally:
        os.close(silent)
        os.close(port)
    assert "hold BOOTSEL" in caught.value.hint
