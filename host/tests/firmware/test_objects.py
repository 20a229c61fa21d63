"""Objects that environments share: the same where compiling would make the same, and only there."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from balance_hil.firmware_build import PROJECT

COMMAND = b"g++ -o a.o -c -O2 -DHIL_USED=1 -DHIL_UNUSED=2 a.cpp"
FILES = {"a.cpp": b'#include "b.h"\n', "b.h": b"int a = HIL_USED;", "g++": b"\x7fELF"}


@pytest.fixture
def place(tmp_path: Path) -> Any:
    pytest.importorskip("SCons", reason="SCons is not installed: make setup")
    spec = importlib.util.spec_from_file_location("objects", PROJECT / "firmware/platform/objects.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    objects = module.Objects(str(tmp_path / "objects"))

    def place(command: bytes = COMMAND, name: str = "a.o", **changed: bytes) -> str:
        """Where the object of a command and files is kept."""
        contents = FILES | {key.replace("_", "."): text for key, text in changed.items()}
        children = [
            SimpleNamespace(
                name=child, get_contents=lambda text=text: text, get_csig=lambda text=text: hashlib.sha256(text).hexdigest()
            )
            for child, text in contents.items()
        ]
        executor = SimpleNamespace(get_contents=lambda: bytearray(command))
        return str(objects.cachepath(SimpleNamespace(name=name, children=lambda: children, get_executor=lambda: executor))[1])

    return place


def test_a_macro_of_ours_that_no_file_names_changes_nothing(place: Any) -> None:
    assert place() == place(COMMAND.replace(b"UNUSED=2", b"UNUSED=3")) == place(COMMAND.replace(b"-DHIL_UNUSED=2 ", b""))


@pytest.mark.parametrize(
    "old_and_new", [(b"USED=1", b"USED=3"), (b"-DHIL_USED=1 ", b""), (b"-O2", b"-O1"), (b"-O2", b"-O2 -DNDEBUG")]
)
def test_another_command_makes_another_object(place: Any, old_and_new: tuple[bytes, bytes]) -> None:
    assert place() != place(COMMAND.replace(*old_and_new, 1))


def test_other_files_make_another_object(place: Any) -> None:
    others = {place(a_cpp=b"changed"), place(b_h=b"int a = HIL_USED + 1;"), place(name="c.o"), place(b_h=b"int a = HIL_UNUSED;")}
    assert len(others | {place()}) == 5
