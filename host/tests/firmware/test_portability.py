"""The parts of the firmware that run on every board keep off the heap, the C library's parsers and every operating system."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

LIBRARIES = Path(__file__).parents[3] / "firmware/lib"
DEPENDENCIES = {  # of each library that runs on every board, its own headers apart
    "status": set(),
    "quantize": {"status"},
    "hal": set(),
    "model_id": set(),
    "engine": {"quantize", "status"},
    "policy": {"engine", "hal", "quantize", "status"},
    "frame": {"status"},
    "server": {"frame", "hal", "model_id", "policy", "status"},
    "board": {"server"},
    "engine_int8": {"engine", "quantize", "status"},
}
BY_THE_BUILD = {"model.h", "build_info.h"}
STANDARD = {"cfloat", "cmath", "cstddef", "cstdint", "cstring", "initializer_list", "limits", "type_traits"}
# Heap, exceptions, and library functions that allocate in newlib.
FORBIDDEN = re.compile(
    r"^(malloc|calloc|realloc|free|_Zn[wa]\w*|_Zd[la]\w*|__cxa_throw|strto[fdl]\w*|ato[fi]|\w*printf\w*|\w*scanf\w*)$"
)


@pytest.mark.parametrize("library", DEPENDENCIES)
def test_includes_nothing_but_what_it_may(library: str) -> None:
    """The C++ library's headers that need no operating system, and those of the libraries below it."""
    for path in (LIBRARIES / library).rglob("*.[ch]*"):
        own = {other.name for other in path.parent.glob("*.h")}
        for name in re.findall(r"#include <(.+)>", path.read_text()):
            assert name in STANDARD or name.startswith("arm_"), f"{path.name} includes <{name}>"
        for name in re.findall(r'#include "(.+)"', path.read_text()):
            allowed = {library, *DEPENDENCIES[library]}
            assert name.split("/")[0] in allowed or name in own | BY_THE_BUILD, f"{path.name} includes {name}"


@pytest.mark.parametrize("library", ["frame", "quantize", "policy", "server", "model_id", "engine_int8", "engine_remote"])
def test_uses_no_heap_and_no_exceptions(native_program: Path, library: str) -> None:
    (archive,) = native_program.parent.glob(f"lib*/lib{library}.a")
    listing = subprocess.run(["nm", "--undefined-only", archive], capture_output=True, text=True, check=True).stdout
    symbols = {line.split()[-1] for line in listing.splitlines() if " U " in line}
    assert symbols or library == "quantize"
    assert not [s for s in symbols if FORBIDDEN.match(s)]
