"""Programs built from the firmware, and boards made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from balance_hil.firmware_build import build, build_native

from .engine_build import compile_check
from .probe import Probe


@pytest.fixture(scope="session")
def native_program() -> Path:
    return build_native()


@pytest.fixture(scope="session")
def sanitized_program() -> Path:
    return build("native_san")


@pytest.fixture(scope="session")
def probe() -> Iterator[Probe]:
    with Probe(build("native_test")) as running:
        yield running


@pytest.fixture(scope="session")
def engine_check(sanitized_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("engine_int8") / "check"
    compile_check(program, sanitized_program)
    return program
