from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LIB = REPOSITORY / "firmware" / "lib"
ENGINE_SOURCES = [*sorted((LIB / "engine_int8" / "src").glob("*.cpp")), LIB / "quantize" / "src" / "quantize.cpp"]
INCLUDES = [f"-I{LIB / name / 'include'}" for name in ("engine_int8", "engine", "quantize", "frame")]
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compile_engine(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles firmware/test/engine_int8/NAME.cpp with the engine for this machine; gives the program."""
    folder = tmp_path_factory.mktemp("engine_int8")

    def compile_(name: str, *flags: str) -> Path:
        program = folder / f"{name}-{abs(hash(flags))}"
        if not program.exists():
            source = REPOSITORY / "firmware" / "test" / "engine_int8" / f"{name}.cpp"
            command = ["g++", *STRICT, *flags, *INCLUDES, str(source), *map(str, ENGINE_SOURCES), "-o", str(program)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return program

    return compile_
