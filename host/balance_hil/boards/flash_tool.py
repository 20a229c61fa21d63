"""The programs that write an image into a board's flash: how each is called, and what its output means.

They come from PlatformIO's packages where those are installed, else from Debian or PyPI. None of them is trusted: ``flash``
asks the board afterwards what it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import serial

from balance_hil.boards.definition import BoardDefinition
from balance_hil.errors import (
    FlashFailedError,
    FlashToolMissingError,
    HarnessError,
    PortNotFoundError,
    PortPermissionError,
    WrongBoardError,
)
from balance_hil.firmware_build import PROJECT, build_lock, platformio_settings, why_it_failed
from balance_hil.link import SerialPort, list_serial_ports
from balance_hil.processes import run_group

UPLOAD_TIMEOUT_S = 180.0  # some tools wait for a board forever
BOOT_LOADER_TIMEOUT_S = 8.0  # until the port of a boot loader appears
METADATA_TIMEOUT_S = 120.0  # PlatformIO evaluates the build scripts
LOOK_INTERVAL_S = 0.1

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FlashTool:
    """One program. Its patterns are searched in what it prints when it fails."""

    name: str  # of the program on PATH
    install: str  # command that installs it
    package: str  # path of the program among PlatformIO's packages
    image: str = ".bin"  # suffix of the file that it takes
    command: str  # its arguments: {options} of the board's file, {select}, {image}, or all {images} with their addresses
    select: str = ""  # the arguments that choose the board, by its {port} or the {serial} number of its debug probe
    boot_loader_baud: int | None = None  # a port that is opened at this rate goes to its boot loader
    takes: str  # what it chooses the board by: "port", "probe", or "any" for the first one that it finds
    no_device: str
    wrong_device: str = "(?!)"  # nothing: the tool cannot tell
    cut_off: str
    not_verified: str = "(?!)"  # nothing: the tool does not read back
    connect: str  # hint where no board is found
    wrong: str = "name that board with --board, or the port of the right one with --port"  # hint where it is another chip
    words: tuple[str, ...] = ()  # how it is called here; see ``installed_tool``


_CONNECT_STLINK = "connect the board by the socket of its ST-Link; what is connected: hil boards"
# By ``upload`` of the board's file; of several the first that is installed.
TOOLS: Mapping[str, tuple[FlashTool, ...]] = {
    "teensy": (
        FlashTool(
            name="teensy_loader_cli",
            install="apt-get install teensy-loader-cli",
            package="tool-teensy/teensy_loader_cli",
            image=".hex",
            command="{options} -w -v {image}",
            boot_loader_baud=134,
            takes="any",
            no_device="Unable to open device|Waiting for Teensy device",
            cut_off="error writing to Teensy",
            connect="press the button on the board, then repeat; check the cable",
        ),
    ),
    "stlink": (
        FlashTool(
            name="openocd",
            install="apt-get install openocd",
            package="tool-openocd/bin/openocd",
            image=".elf",
            command="{options} {select} -c 'program {{{image}}} verify reset exit'",
            select="-c 'adapter serial {serial}'",
            no_device="open failed|unable to open|init mode failed|No device found|no device found",
            wrong_device="Cannot identify target|UNEXPECTED idcode|unexpected idcode|auto_probe failed",
            cut_off=r"\*\* Programming Failed \*\*|\*\* Unable to reset target \*\*",
            not_verified=r"\*\* Verify Failed \*\*",
            takes="probe",
            connect=_CONNECT_STLINK,
        ),
        FlashTool(
            name="st-flash",
            install="apt-get install stlink-tools",
            package="tool-stlink/st-flash",
            command="{select} --reset write {image} 0x08000000",
            select="--serial {serial}",
            no_device="Couldn't find any ST-Link|Failed to connect to target",
            wrong_device="[Uu]nknown chip id|unrecognized flash type",
            cut_off=r"stlink_fwrite_flash\(\) == -1|Failed to halt the core|Failed to reset device",
            not_verified="Verification of flash failed",
            takes="probe",
            connect=_CONNECT_STLINK,
        ),
    ),
    "esptool": (
        FlashTool(
            name="esptool",
            install="pip install esptool",
            package="tool-esptoolpy/esptool.py",
            command="{options} {select} --baud 460800 --after hard_reset write_flash {images}",
            select="--port {port}",
            takes="port",
            no_device="No serial data received|Could not open|could not open port|Wrong boot mode|Failed to connect",
            wrong_device="This chip is|Unexpected chip|Wrong (?:--)?chip argument",
            cut_off="Packet content transfer stopped|chip stopped responding|serial exception|Lost connection|Failed to write",
            not_verified="MD5 of file does not match|Verification failed",
            connect="hold BOOT, press and release RESET, release BOOT, then repeat; check cable and port",
        ),
    ),
    "platformio": (
        FlashTool(
            name="PlatformIO",
            words=(sys.executable, "-m", "platformio"),
            install="",
            package="",
            command="run --environment {environment} --project-dir {project} --target upload {select}",
            select="--upload-port {port}",
            takes="port",
            no_device="(?!)",
            cut_off="(?!)",
            connect="check cable and port; many boards enter their boot loader by a button",
        ),
    ),
    "bossac": (
        FlashTool(
            name="bossac",
            install="pio pkg install --global --tool tool-bossac-nordicnrf52",  # Debian's knows no nRF52
            package="tool-bossac-nordicnrf52/bossac",
            command="{options} {select} -U -e -w -R {image}",
            select="--port={port}",
            boot_loader_baud=1200,
            takes="port",
            no_device="No device found|No serial ports available|Failed to open port",
            wrong_device="Device unsupported",
            cut_off="SAM-BA operation failed|Flash (?:command|erase) (?:failed|timeout)|short write",
            not_verified="Verify failed",
            connect="press the reset button twice to start the boot loader, then repeat",
            wrong="Debian's bossac knows no nRF52: pio pkg install --global --tool tool-bossac-nordicnrf52",
        ),
    ),
}


def installed_tool(definition: BoardDefinition) -> FlashTool:
    """The tool for a board, as it is called here. Raises FlashToolMissingError."""
    tools = TOOLS[definition.upload]
    for tool in tools:
        if tool.words:
            return tool
        packaged = PROJECT / ".platformio/packages" / tool.package
        if packaged.is_file():
            return replace(tool, words=(sys.executable, str(packaged)) if packaged.suffix == ".py" else (str(packaged),))
        if found := shutil.which(tool.name) or shutil.which(f"{tool.name}.py"):
            return replace(tool, words=(found,))
    names = " or ".join(tool.name for tool in tools)
    raise FlashToolMissingError(
        f"flashing {definition.name} needs {names}, which is not installed", f"install it: {tools[0].install}"
    )


def probe_of(definition: BoardDefinition, port: SerialPort | None) -> str:
    """Serial number of a board's debug probe: from the bench's map, else that of its port; "" if unknown."""
    return (definition.place and definition.place.probe) or (port and port.serial_number) or ""


def upload(
    tool: FlashTool,
    definition: BoardDefinition,
    environment: str,
    image: Path,
    port: SerialPort | None,
    variables: dict[str, str],
    progress: Progress,
) -> None:
    """Writes an image into the flash of a board.

    Args:
        tool: from ``installed_tool``.
        definition: the board.
        environment: of platformio.ini, which built the image.
        image: ELF file with the files that tools take beside it; see ``build_image``.
        port: where the board is, closed; None: the tool looks for it.
        variables: environment variables with which the image was built, for PlatformIO, which checks that it is up to date.
        progress: called with what happens.

    Raises:
        PortNotFoundError: the tool found no board, or needs a port. PortPermissionError: this user may not open it.
        WrongBoardError: the board has another chip.
        FlashFailedError: it was cut off, read back something else, or failed otherwise; with its last lines.
    """
    if port is None and tool.takes == "port":
        raise PortNotFoundError(f"{tool.name} needs the port of {definition.name}", "name it with --port; ports: hil boards")
    if port is not None and tool.boot_loader_baud is not None:
        port = _enter_boot_loader(definition, port, tool.boot_loader_baud)
    file = image.with_suffix(tool.image)
    command = [*tool.words, *_arguments(tool, definition, environment, file, port)]
    progress(f"{tool.name} writes {file.name}" + (f" through {port.device}" if port else ""))
    try:
        with build_lock(progress) if definition.upload == "platformio" else contextlib.nullcontext():
            done = run_group(
                command,
                timeout_s=UPLOAD_TIMEOUT_S,
                env=os.environ | platformio_settings(environment) | variables,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
    except subprocess.TimeoutExpired:
        raise FlashFailedError(
            f"{tool.name} did not end within {UPLOAD_TIMEOUT_S:g} s and was stopped: it found no {definition.name}, or lost it",
            tool.connect,
        ) from None
    if done.returncode != 0:
        raise _failure(tool, definition, done.returncode, done.stdout)


def _arguments(tool: FlashTool, definition: BoardDefinition, environment: str, file: Path, port: SerialPort | None) -> list[str]:
    """The tool's arguments. A value is one word of them, also with a space in it."""
    values = {"environment": environment, "image": file, "project": PROJECT}
    lists = {"{options}": shlex.split(definition.upload_options), "{select}": []}
    serial_number, device = probe_of(definition, port), port.device if port else ""
    if device if tool.takes == "port" else serial_number:
        lists["{select}"] = [word.format(port=device, serial=serial_number) for word in shlex.split(tool.select)]
    if "{images}" in tool.command:
        lists["{images}"] = _flash_images(environment, file)
    return [part for word in shlex.split(tool.command) for part in (lists[word] if word in lists else [word.format(**values)])]


def _failure(tool: FlashTool, definition: BoardDefinition, status: int, output: str) -> HarnessError:
    """The first cause whose pattern the tool printed: the later ones may be consequences."""
    said = f"\n{why_it_failed(output)}\n(exit status {status})"
    if re.search("LIBUSB_ERROR_ACCESS|check USB permissions|Permission denied", output):
        return PortPermissionError(
            f"{tool.name} may not open the USB device of {definition.name}:{said}",
            "install the tool's udev rules and plug the board in again, or run this command as root",
        )
    if re.search(tool.wrong_device, output):
        return WrongBoardError(f"{tool.name} found another chip than that of {definition.name}:{said}", tool.wrong)
    if re.search(tool.not_verified, output):
        return FlashFailedError(
            f"{tool.name} read back another image than it wrote: {definition.name} has no valid image now:{said}",
            f"flash it again with --force; if that fails too, the cable or the flash is defective: {tool.connect}",
        )
    if re.search(tool.cut_off, output):
        return FlashFailedError(
            f"{tool.name} was cut off while it wrote: {definition.name} has no whole image now:{said}",
            f"check cable and power, then flash it again with --force; if it has no port: {tool.connect}",
        )
    if re.search(tool.no_device, output):
        return PortNotFoundError(f"{tool.name} found no {definition.name}:{said}", tool.connect)
    return FlashFailedError(
        f"flashing {definition.name} failed:{said}", "check board and port, and close other programs that use it"
    )


def _enter_boot_loader(definition: BoardDefinition, port: SerialPort, baud: int) -> SerialPort:
    """Opens the port at the rate that starts the boot loader; returns the port that the boot loader has then."""
    with contextlib.suppress(serial.SerialException, OSError):  # the board may vanish while its port is opened
        serial.Serial(port.device, baud).close()
    deadline = time.monotonic() + BOOT_LOADER_TIMEOUT_S
    while time.monotonic() < deadline:
        for now in list_serial_ports():
            if definition.matches(now) and (now.device, now.pid) != (port.device, port.pid):
                return now
        time.sleep(LOOK_INTERVAL_S)
    return port  # its boot loader has no port, or it runs already


def _flash_images(environment: str, application: Path) -> list[str]:
    """ "ADDRESS FILE" of the boot loader, the partitions and the application, as PlatformIO names them.

    Raises:
        FlashFailedError: PlatformIO does not.
    """
    command = [sys.executable, "-m", "platformio", "project", "metadata", "--json-output"]
    command += ["--environment", environment, "--project-dir", str(PROJECT)]
    try:
        with build_lock():
            done = run_group(command, timeout_s=METADATA_TIMEOUT_S, env=os.environ | platformio_settings(environment), text=True)
        extra = json.loads(done.stdout)[environment]["extra"]
        parts = [(part["offset"], part["path"]) for part in extra["flash_images"]]
        parts.append((extra["application_offset"], str(application)))
    except (subprocess.TimeoutExpired, ValueError, LookupError, TypeError) as exc:
        raise FlashFailedError(
            f"PlatformIO does not tell which images {environment} consists of: {exc!r}", f"see: {shlex.join(command)}"
        ) from exc
    return [word for part in parts for word in part]
