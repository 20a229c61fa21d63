"""Compiles the program of firmware/test/engine_int8 for this computer, with the compact engine as the sanitized board has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
TEST_SOURCES = REPOSITORY / "firmware" / "test" / "engine_int8"
_LIB = REPOSITORY / "firmware" / "lib"
INCLUDES = [f"-I{_LIB / name / 'include'}" for name in ("engine_int8", "engine", "quantize", "frame", "status")]
STRICT = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compile_check(program: Path, board: Path) -> None:
    """Compiles firmware/test/engine_int8/check.cpp and links it with libraries of the sanitized board."""
    libraries = [str(next(board.parent.glob(f"lib*/lib{name}.a"))) for name in ("engine_int8", "quantize")]
    command = ["g++", *STRICT, "-O1", *SANITIZERS, *INCLUDES, str(TEST_SOURCES / "check.cpp"), *libraries, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
