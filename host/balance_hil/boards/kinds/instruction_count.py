"""Instructions per inference on an emulated Cortex-M.

The firmware's benchmark runs in QEMU with ``-icount shift=0``, where an instruction takes a nanosecond of the board's time, so
that its timer counts them. The counts repeat exactly. Instructions are not cycles: a load, a division or a taken branch costs
more than one on a real processor, and flash has wait states.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from balance_hil.boards.definition import BoardDefinition, find_definition
from balance_hil.boards.engines import check_fits
from balance_hil.boards.kinds.emulated import image_environment
from balance_hil.boards.kinds.qemu import COUNT, emulator
from balance_hil.errors import BoardBootError, UsageError
from balance_hil.files import write_atomically
from balance_hil.firmware_build import build_image
from balance_hil.processes import tied

LIBRARIES = {"int8": ("engine_int8",), "tflm": ("engine_tflm", "tflm")}  # static libraries that make up an engine
TIMEOUT_S = 60.0
_LAST_LINE = b"done 0\n"


@dataclass(frozen=True)
class EngineCost:
    """One engine with one model on one processor."""

    inference_instructions: int
    operator_instructions: list[int]  # of each operator; empty if the engine cannot run operators individually
    load_instructions: int
    code_bytes: int  # code and constants linked from the engine's libraries
    arena_bytes: int
    object_bytes: int  # of the engine, outside its arena
    stack_bytes: int  # peak stack, loading included
    image: Path  # the firmware that was measured, an ELF file


def engine_cost(
    board: BoardDefinition, engine: str, model: bytes, header: Path, progress: Callable[[str], None] | None = None
) -> EngineCost:
    """Measures one engine with a model on an emulated board; results are cached in a file.

    Args:
        board: of kind qemu.
        engine: "int8", or "tflm" where HIL_TFLM_LIB names its library.
        model: bytes of a ``.tflite``.
        header: its ``model.h``, with vectors by which the firmware verifies its outputs.
        progress: called with a message before a build.

    Raises:
        BoardBootError: the benchmark did not finish, or the engine's outputs differ from the vectors.
        UnsupportedOperatorError, ArenaTooSmallError: the board cannot run the model.
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError: QEMU is missing, or the image cannot be built.
    """
    if counted_on := board.settings.get("bench"):
        board = find_definition(counted_on)
    elif board.hal:
        raise UsageError(f"{board.name} has no image that counts", 'add the like board that has to its file: bench = "qemu-m3"')
    arena_bytes = check_fits(board, model, engine)
    image = build_image(image_environment(board, engine, prefix="bench"), header, progress, arena_bytes=arena_bytes)
    record, stamp = image.with_suffix(".json"), image.with_suffix(".stamp").read_text()
    known = json.loads(record.read_text()) if record.is_file() else {}
    if known.get("stamp") != stamp:
        known = {"stamp": stamp, "report": _report(board.settings["machine"], image)}
        write_atomically(record, json.dumps(known))
    return _parsed(
        known["report"], code_bytes(image.with_suffix(".map").read_text(), LIBRARIES[engine]), image, f"{engine} on {board.name}"
    )


def _parsed(report: str, code: int, image: Path, what: str) -> EngineCost:
    numbers: dict[str, list[int]] = defaultdict(list)
    for line in report.splitlines():
        name, value = line.split()
        numbers[name].append(int(value))
    if numbers["overflowed"] == [1]:
        raise BoardBootError(f"an inference of {what} takes more instructions than the board counts, 5e8", "use a smaller model")
    if numbers["status"] != [0] or numbers["mismatches"] != [0]:
        raise BoardBootError(f"the outputs of the engine {what} differ from its vectors", "locate the difference: hil compare")
    one = {name: values[0] for name, values in numbers.items() if name.endswith(("_instructions", "_bytes"))}
    one.pop("operator_instructions", None)
    return EngineCost(operator_instructions=numbers["operator_instructions"], code_bytes=code, image=image, **one)


def _report(machine: str, image: Path) -> str:
    """Output of the benchmark firmware up to its last line."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as link:
        link.settimeout(TIMEOUT_S)
        command = [emulator(), "-M", machine, "-kernel", str(image), "-nodefaults", "-display", "none", *COUNT]
        command += ["-chardev", f"socket,id=uart,fd={server.fileno()},server=on,wait=on,nodelay=on", "-serial", "chardev:uart"]
        text = b""
        with subprocess.Popen(tied(command), pass_fds=[server.fileno()], stderr=subprocess.DEVNULL) as qemu:
            try:
                while not text.endswith(_LAST_LINE) and (chunk := link.recv(4096)):
                    text += chunk
            except TimeoutError:
                pass
            finally:
                qemu.kill()
    if not text.endswith(_LAST_LINE):
        raise BoardBootError(f"the benchmark on {machine} ended early: {text[-200:]!r}", "try again")
    return text.decode()


def code_bytes(linker_map: str, libraries: tuple[str, ...]) -> int:
    """Bytes of code and constants linked from some static libraries, from the linker map."""
    sizes: dict[str, int] = defaultdict(int)
    section = ""
    memory = linker_map[linker_map.index("Linker script and memory map") :]
    for line in memory.splitlines():
        if named := re.match(r" (\.[\w.$]+)", line):
            section = named[1]
        found = re.match(r" (?:\.[\w.$]+)?\s+0x0*([0-9a-f]*)\s+0x([0-9a-f]+)\s+\S*?lib([\w+]+)\.a\(", line)
        if found and found[1] and section.startswith((".text", ".rodata")):
            sizes[found[3]] += int(found[2], 16)
    return sum(sizes[library] for library in libraries)
