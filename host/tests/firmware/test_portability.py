"""The parts of the firmware that run on every board keep off the heap, the C library's parsers and every operating system."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

LIBRARIES = Path(__file__).parents[3] / "firmware/lib"
PORTABLE = ("frame", "quantize", "engine", "hal", "server", "model_id")
STANDARD = {"cmath", "cstddef", "cstdint", "cstring", "initializer_list", "limits", "type_traits"}
# Heap, exceptions, and library functions that allocate in newlib.
FORBIDDEN = re.compile(
    r"^(malloc|calloc|realloc|free|_Zn[wa]\w*|_Zd[la]\w*|__cxa_throw|strto[fdl]\w*|ato[fi]|\w*printf\w*|\w*scanf\w*)$"
)


@pytest.mark.parametrize("library", PORTABLE)
def test_includes_nothing_but_portable_headers(library: str) -> None:
    for path in (LIBRARIES / library).rglob("*.[ch]*"):
        for name in re.findall(r"#include <(.+)>", path.read_text()):
            assert name in STANDARD, f"{path.name} includes <{name}>"
        for name in re.findall(r'#include "(.+)"', path.read_text()):
            assert name.split("/")[0] in PORTABLE, f"{path.name} includes {name}"


@pytest.mark.parametrize("library", ["frame", "quantize", "server", "model_id", "engine_remote"])
def test_uses_no_heap_and_no_exceptions(native_program: Path, library: str) -> None:
    (archive,) = native_program.parent.glob(f"lib*/lib{library}.a")
    listing = subprocess.run(["nm", "--undefined-only", archive], capture_output=True, text=True, check=True).stdout
    symbols = {line.split()[-1] for line in listing.splitlines() if " U " in line}
    assert symbols or library == "quantize"
    assert not [s for s in symbols if FORBIDDEN.match(s)]


def test_dependencies_point_one_way() -> None:
    """server -> frame, quantize, engine, hal, model_id; engine -> frame, quantize; nothing else."""
    allowed = {
        "frame": {"frame"},
        "quantize": {"quantize"},
        "hal": {"hal"},
        "model_id": {"model_id"},
        "engine": {"engine", "frame", "quantize"},
        "server": {"server", "frame", "quantize", "engine", "hal", "model_id"},
    }
    for library, others in allowed.items():
        for path in (LIBRARIES / library).rglob("*.[ch]*"):
            used = {name.split("/")[0] for name in re.findall(r'#include "(.+)"', path.read_text())}
            assert used <= others, f"{path.name} includes {used - others}"
