"""Static analysis of the firmware: ``python firmware/lint.py [--jobs N] [tidy|cppcheck|warnings ...]`` (part of ``make check``).

tidy      clang-tidy with .clang-tidy on every source, as it is compiled for this computer or for a Cortex-M7
cppcheck  cppcheck on the same
warnings  the system's compiler and arm-none-eabi-g++ with every warning that the firmware is held to, as errors; no output

Sources of TensorFlow Lite Micro's engine need its library and are looked at by the compiler alone, where that is there.
Exit status 1 when anything was found, 2 when a tool is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FIRMWARE = Path(__file__).resolve().parent
ROOT = FIRMWARE.parent
CROSS = "arm-none-eabi-g++"
CPU = ["-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wdouble-promotion", "-Wnon-virtual-dtor"]
WARNINGS += ["-Wold-style-cast", "-Wundef", "-Wcast-align", "-Wvla", "-Werror"]
NEEDS_A_LIBRARY = ("engine_tflm", "board_engine/tflm.cpp", "engine_size_tflm.cpp")
# What a Cortex-M alone can compile: registers, its instructions, the images for it.
CORTEX = (
    "lib/hal_cortex/",
    "lib/hal_custom/",
    "lib/hal_mps/",
    "lib/hal_rp2040/",
    "lib/hal_stm32/",
    "src/bare_metal/",
    "board_engine/faulty.cpp",
    "src/bench/",
    "test/engine_int8/on_board.cpp",
    "dense_rows_dsp.cpp",
    "dense_rows_mve.cpp",
)
CPPCHECK = ["--enable=warning,style,performance,portability", "--inline-suppr", "--error-exitcode=1", "--quiet", "--std=c++17"]
SUPPRESSED = (
    "missingIncludeSystem",
    "normalCheckLevelMaxBranches",  # that it looks at the likely branches only is not a finding
    "unmatchedSuppression",
    "useStlAlgorithm",  # wants <algorithm> on a microcontroller
    "unusedStructMember",  # sees one file at a time
    "functionStatic",  # interfaces, and requests without fields
    "shadowFunction",  # a parameter may be called like the accessor of what it sets
    "uninitMemberVarNoCtor",  # plain structs that are filled where they are made
    "noConstructor",
    "shiftTooManyBitsSigned",  # arithmetic, by every compiler that this is built with; bit for bit as TFLM does it
    "constParameterPointer:*messages.h",  # generated: one signature for all messages
)


@dataclass(frozen=True)
class Unit:
    """One source and how it is compiled."""

    path: Path
    cortex: bool
    upload_bytes: int = 4096

    def flags(self, generated: Path) -> list[str]:
        """Language, includes and definitions, for any compiler."""
        folders = [*sorted((FIRMWARE / "lib").glob("*/include")), FIRMWARE / "src", FIRMWARE / "src" / "native", generated]
        folders += [FIRMWARE / "test" / "fuzz", FIRMWARE / "examples" / self.path.parent.parent.name / "include"]
        folders += [FIRMWARE / "examples" / "robot" / "include"] if self.path.parent.name == "robot" else []
        if not self.cortex:
            folders.append(FIRMWARE / "test" / "arduino")
        defined = ["-DHIL_RX_BUFFER=256", f"-DHIL_UPLOAD_BYTES={self.upload_bytes}", "-DF_CPU=1000000L", "-DCORE_TEENSY"]
        defined += ["-DHIL_MACHINE_MPS2", "-DHIL_RX_IRQ=5", "-DHIL_CLOCK_HZ=12000000"] if self.cortex else []
        return ["-std=c++17", "-fno-exceptions", "-fno-rtti", *defined, *(f"-I{folder}" for folder in folders)]


def units() -> list[Unit]:
    """Every source but those that need a library which is not here."""
    found = []
    for path in sorted(FIRMWARE.rglob("*.cpp")):
        name = path.relative_to(FIRMWARE).as_posix()
        if not any(part in name for part in NEEDS_A_LIBRARY):
            found.append(Unit(path, any(part in name for part in CORTEX)))
        if name == "src/arduino/main.cpp":  # also as on a board without memory for uploads
            found.append(Unit(path, cortex=False, upload_bytes=0))
    return found


def main() -> int:
    """Runs what the command line names; everything without a name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("tools", nargs="*", metavar="tidy|cppcheck|warnings", default=["warnings", "cppcheck", "tidy"])
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        generated = Path(folder)
        _stand_ins(generated)
        for tool in arguments.tools:
            commands = list(COMMANDS[tool](generated))
            with ThreadPoolExecutor(arguments.jobs) as pool:
                results = list(pool.map(_run, commands))
            bad = [said for status, said in results if status != 0]
            for said in bad:
                print(said, file=sys.stderr)
            print(f"{tool}: {len(commands)} runs, {len(bad)} with findings")
            failed = failed or bool(bad)
    return 1 if failed else 0


def _stand_ins(folder: Path) -> None:
    """The headers that a build makes."""
    facts = ("HIL_FIRMWARE_COMMIT", "HIL_PROCESSOR", "HIL_BOARD_NAME")
    (folder / "build_info.h").write_text("#pragma once\n" + "".join(f'#define {name} "x"\n' for name in facts))
    for name in ("model.h", "signals.h"):
        shutil.copyfile(ROOT / "models" / "ppo" / name, folder / name)


def _tidy(generated: Path) -> Iterable[list[str]]:
    tool = _tool("clang-tidy")
    cross = ["--target=arm-none-eabi", *CPU, "-D__GLIBC_USE(x)=0"] if shutil.which(CROSS) else None
    for unit in units():
        if not unit.cortex:
            yield [tool, "--quiet", str(unit.path), "--", *unit.flags(generated)]
        elif cross and "mve" not in unit.path.name:
            system = [flag for folder in _cross_includes() for flag in ("-isystem", folder)]
            yield [tool, "--quiet", str(unit.path), "--", *cross[:-1], "-nostdinc++", *system, *unit.flags(generated)]


def _cppcheck(generated: Path) -> Iterable[list[str]]:
    suppressed = [f"--suppress={name}" for name in SUPPRESSED]
    for unit in units():
        flags = [flag for flag in unit.flags(generated) if flag.startswith(("-I", "-D"))]
        platform = "arm32-wchar_t4" if unit.cortex else "unix64"
        yield [_tool("cppcheck"), *CPPCHECK, f"--platform={platform}", *suppressed, *flags, str(unit.path)]


def _warnings(generated: Path) -> Iterable[list[str]]:
    for unit in units():
        flags = [*unit.flags(generated), *WARNINGS, "-O1", "-fsyntax-only", str(unit.path)]
        if not unit.cortex:
            yield ["g++", *flags]
        if shutil.which(CROSS) and (unit.cortex or _is_portable(unit.path)):
            mve = unit.path.name == "dense_rows_mve.cpp"
            yield [CROSS, *(["-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"] if mve else CPU), *flags]


def _is_portable(path: Path) -> bool:
    """Whether a library is shared by all boards."""
    name = path.relative_to(FIRMWARE).as_posix()
    return name.startswith("lib/") and not name.startswith(("lib/hal_native/", "lib/engine_remote/"))


def _cross_includes() -> list[str]:
    """Where the cross compiler looks for the standard library."""
    said = subprocess.run(
        [CROSS, *CPU, "-E", "-v", "-x", "c++", os.devnull], stdin=subprocess.DEVNULL, capture_output=True, text=True
    ).stderr
    listed = re.search(r"#include <\.\.\.> search starts here:\n(.*)End of search list", said, re.DOTALL)
    return [line.strip() for line in listed[1].splitlines()] if listed else []


def _tool(name: str) -> str:
    """A tool of the Python environment, or of the system."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        print(f"error: {name} is not installed\nhint:  make setup", file=sys.stderr)
        sys.exit(2)
    return found


def _run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


COMMANDS = {"tidy": _tidy, "cppcheck": _cppcheck, "warnings": _warnings}

if __name__ == "__main__":
    sys.exit(main())
