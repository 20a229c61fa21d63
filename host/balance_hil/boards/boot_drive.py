"""Flashing by a boot drive: a board in its boot loader is a USB drive with INFO_UF2.TXT, and restarts once it has a whole image.

The image is a UF2 file. After the last block the board removes the drive; only that counts as success.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from balance_hil.errors import AmbiguousBoardError, FlashFailedError, PortNotFoundError, WrongBoardError

INFO_FILE = "INFO_UF2.TXT"
RESTART_TIMEOUT_S = 15.0  # from the last byte to the end of the drive
LOOK_INTERVAL_S = 0.05
_BLOCK_BYTES = 512
_CHUNK_BYTES = 128 * _BLOCK_BYTES
_MAGIC = struct.pack("<2I", 0x0A324655, 0x9E5D5157)
_COUNT_OFFSET, _FAMILY_OFFSET = 24, 28
# Where systems mount drives: Linux desktops, macOS.
_PLACES = ("/media/*", "/media/*/*", "/run/media/*/*", "/mnt/*", "/Volumes/*")
_FAMILIES = {0xE48B_FF56: "RPI-RP2"}  # of the image -> Board-ID of the drive

Progress = Callable[[str], None]


def find_drive(given: Path | None, image: Path) -> Path:
    """The boot drive for ``image``.

    Args:
        given: where it is mounted; None: where systems mount drives.
        image: the UF2 file, whose family says which drive.

    Raises:
        PortNotFoundError: there is none.
        AmbiguousBoardError: several boards wait for an image.
        WrongBoardError: the drive belongs to another chip, or no drive that is known takes the image.
        FlashFailedError: the file is no whole UF2 image.
    """
    wanted = _board_id(image)
    drives = _drives(_mounted() if given is None else [given])
    if not drives:
        where = f"{given} is not a boot drive: it has no {INFO_FILE}" if given else "no boot drive is mounted"
        raise PortNotFoundError(
            where,
            "hold BOOTSEL while you plug the board in, or name the port of the running board with --port; mount the drive that "
            "appears, and name it with --drive FOLDER if it is not found",
        )
    matching = [drive for drive, board in drives.items() if board == wanted]
    if not matching:
        drive, board = next(iter(drives.items()))
        raise WrongBoardError(
            f"the boot drive {drive} belongs to {board}, the image is for {wanted}", "flash the board it is for"
        )
    if len(matching) > 1:
        raise AmbiguousBoardError(
            f"{len(matching)} boards wait for an image: {', '.join(map(str, matching))}", "name one with --drive FOLDER"
        )
    return matching[0]


def _board_id(image: Path) -> str:
    """Board-ID of the drives that take an image."""
    data = image.read_bytes()
    if not data.startswith(_MAGIC) or len(data) != _BLOCK_BYTES * struct.unpack_from("<I", data, _COUNT_OFFSET)[0]:
        raise FlashFailedError(f"{image} is no whole UF2 file", "build it again: delete it and repeat the command")
    family = struct.unpack_from("<I", data, _FAMILY_OFFSET)[0]
    if family not in _FAMILIES:
        raise WrongBoardError(
            f"{image} is for chips of the UF2 family {family:#010x}, not for {' or '.join(_FAMILIES.values())}",
            "copy it to its boot drive yourself, and name the board's port to other commands",
        )
    return _FAMILIES[family]


def copy_image(image: Path, drive: Path, progress: Progress = lambda line: None) -> None:
    """Copies a UF2 file to a boot drive and waits until the board has stored it and restarted.

    Raises:
        FlashFailedError: the drive vanished while it was written, is full or read-only, or the board does not restart.
    """
    data = image.read_bytes()
    progress(f"copying {len(data)} bytes to {drive}")
    last = len(data) - _BLOCK_BYTES
    written = 0
    try:
        with (drive / image.name).open("wb", buffering=0) as file:
            while written < len(data):
                # The board restarts with the last block, and may take the drive away before that is confirmed.
                end = len(data) if written == last else min(last, written + _CHUNK_BYTES)
                count = file.write(data[written:end])
                os.fsync(file.fileno())
                written += count
    except OSError as exc:
        if written < last or (drive / INFO_FILE).exists():
            raise FlashFailedError(
                f"the drive {drive} failed after {written} of {len(data)} bytes: {exc.strerror or exc}",
                "the board has no whole image: put it into its boot loader again and repeat; check cable and hub",
            ) from exc
    progress("waiting for the board to restart")
    deadline = time.monotonic() + RESTART_TIMEOUT_S
    while (drive / INFO_FILE).exists():
        if time.monotonic() > deadline:
            raise FlashFailedError(
                f"the board did not take the image: {drive} is still there after {RESTART_TIMEOUT_S:g} s",
                "put it into its boot loader again and repeat",
            )
        time.sleep(LOOK_INTERVAL_S)


def _mounted() -> Iterable[Path]:
    return (path for place in _PLACES for path in Path("/").glob(place.removeprefix("/")))


def _drives(places: Iterable[Path]) -> dict[Path, str]:
    """Boot drives among some folders, with their Board-ID."""
    found = {}
    for place in places:
        try:
            text = (place / INFO_FILE).read_bytes()[:4096].decode(errors="replace")
        except OSError:
            continue
        board = re.search(r"^Board-ID: *(\S+)", text, re.MULTILINE)
        found[place] = board[1] if board else "an unknown board"
    return found
