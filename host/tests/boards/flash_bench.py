"""A workbench without boards: pseudo-terminals that vanish and come back, and flash tools that plug them."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import tty
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import serial

from balance_hil.bundle import Bundle
from balance_hil.link import SerialPort
from balance_hil.testing.fake_board import FakeFirmware, fake_info, linear_policy

DEADLINE_S = 30.0
COMMIT = "0123456789ab"
GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]
Answer = Callable[[bytes], bytes]


def our_firmware(bundle: Bundle, **changes: object) -> Answer:
    """What a board with our firmware answers."""
    info = replace(fake_info(bundle), board="teensy41", engine="int8", firmware_commit=COMMIT)
    firmware = FakeFirmware(replace(info, **changes), linear_policy(GAINS, bundle))
    return lambda data: b"".join(frame for _, frame in firmware.feed(data))


class PluggedBoard:
    """A board on a pseudo-terminal: answers until it is unplugged."""

    def __init__(self, link: Path, usb: SerialPort, answer: Answer) -> None:
        self._link = link
        self.usb = replace(usb, device=str(link))
        self._answer = answer
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        link.symlink_to(os.ttyname(self._slave))

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._master, self._wake_read], [], [])
            if self._wake_read in ready:
                return
            reply = self._answer(os.read(self._master, 4096))
            if reply:
                os.write(self._master, reply)

    def unplug(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._link.unlink()
        os.write(self._wake_write, b"x")
        self._thread.join(DEADLINE_S)
        for descriptor in (self._master, self._slave, self._wake_read, self._wake_write):
            os.close(descriptor)


class Bench:
    """The connected boards, a build without a compiler, and flash tools on PATH that a test tells what to do.

    A tool logs its command line and runs the test's shell lines; then it waits on a named pipe until ``on_upload`` has run here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boards: list[PluggedBoard] = []
        self.builds: list[tuple[str, Path, int | None]] = []  # environment, header, baud
        self.on_upload: Callable[[], None] = lambda: None
        self.own: object = None  # sources that the image was built with
        self.build_error: Exception | None = None
        self.upload_script = ""
        self._request, self._done = folder / "request", folder / "done"
        self.log = folder / "tool.log"
        for pipe in (self._request, self._done):
            os.mkfifo(pipe)
        self._thread: threading.Thread | None = None

    def plug(
        self, name: str, answer: Answer, serial_number: str | None = "S1", vid: int = 0x16C0, pid: int = 0x0483
    ) -> PluggedBoard:
        usb = SerialPort(
            device="", description="", vid=vid, pid=pid, serial_number=serial_number, accessible=True, group="dialout"
        )
        board = PluggedBoard(self.folder / name, usb, answer)
        self.boards.append(board)
        return board

    def unplug(self, board: PluggedBoard) -> None:
        self.boards.remove(board)
        board.unplug()

    def ports(self) -> list[SerialPort]:
        return [board.usb for board in self.boards]

    @property
    def tools(self) -> Path:
        """The folder for PATH."""
        return self.folder / "bin"

    def install(self, name: str) -> None:
        """A flash tool, on PATH."""
        self.tools.mkdir(exist_ok=True)
        program = self.tools / name
        program.write_text(
            f"""#!/bin/sh
echo "{name} $@" >> {self.log}
. {self.folder}/upload.sh
echo > {self._request}
read answer < {self._done}
"""
        )
        program.chmod(0o755)

    def build(
        self,
        environment: str,
        header: Path,
        progress: Callable[[str], None] | None = None,
        *,
        baud: int | None = None,
        own: object = None,
        arena_bytes: int = 0,
    ) -> Path:
        """Instead of ``build_image``."""
        if self.build_error is not None:
            raise self.build_error
        self.builds.append((environment, header, baud))
        self.own = own
        return self.folder / f"{environment}.elf"

    def start(self) -> None:
        (self.folder / "upload.sh").write_text(self.upload_script + "\n")
        self._thread = threading.Thread(target=self._upload, daemon=True)
        self._thread.start()

    def _upload(self) -> None:
        with self._request.open() as request:
            if request.read() == "":  # the bench closes
                return
        self.on_upload()
        self._done.write_text("done\n")

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def close(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            os.close(os.open(self._request, os.O_WRONLY))
            self._thread.join(DEADLINE_S)
        for board in list(self.boards):
            self.unplug(board)


def hold(board: PluggedBoard) -> serial.Serial:
    """Another program that has the port open."""
    return serial.Serial(board.usb.device, exclusive=True)
