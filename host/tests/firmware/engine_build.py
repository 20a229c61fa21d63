"""Compiles the programs of firmware/test/engine_int8 with the compact engine, for this computer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
TEST_SOURCES = REPOSITORY / "firmware" / "test" / "engine_int8"
_LIB = REPOSITORY / "firmware" / "lib"
ENGINE_SOURCES = [*sorted((_LIB / "engine_int8" / "src").glob("*.cpp")), _LIB / "quantize" / "src" / "quantize.cpp"]
INCLUDES = [f"-I{_LIB / name / 'include'}" for name in ("engine_int8", "engine", "quantize", "frame", "status")]
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

Compile = Callable[..., Path]


def compiler(folder: Path) -> Compile:
    """``compile_(name, *flags)`` compiles firmware/test/engine_int8/NAME.cpp into ``folder``, once, and gives the program."""
    programs: dict[tuple[str, ...], Path] = {}

    def compile_(name: str, *flags: str) -> Path:
        key = (name, *flags)
        if key not in programs:
            program = folder / f"{name}-{len(programs)}"
            sources = [TEST_SOURCES / f"{name}.cpp", *ENGINE_SOURCES]
            command = ["g++", *STRICT, *flags, *INCLUDES, *map(str, sources), "-o", str(program)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            programs[key] = program
        return programs[key]

    return compile_
