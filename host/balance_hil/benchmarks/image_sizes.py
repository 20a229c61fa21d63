"""What a linked firmware image takes of flash and RAM, symbol by symbol, and which compiler made it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance_hil.errors import FirmwareBuildError, require

UNNAMED = "(no symbol)"  # texts, literals, tables of the linker, alignment, the stack's room
_KINDS = ("STT_FUNC", "STT_OBJECT")
_ALLOCATED, _WRITABLE = 2, 1  # flags of a section, SHF_ALLOC and SHF_WRITE
_DEMANGLE_TIMEOUT_S = 10.0
LONGEST_NAME = 1000  # a C++ name may be of any length


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """Bytes by symbol, as the linker names it; variables that start with a value count in flash and in RAM."""

    compiler: str
    flash: Mapping[str, int]
    ram: Mapping[str, int]


def image_sizes(path: Path) -> ImageSizes:
    """Sizes of an ELF file.

    Raises:
        MissingExtraError: ``elftools`` is not installed.
        FirmwareBuildError: no ELF file.
    """
    require("elftools", "firmware")
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        try:
            elf = ELFFile(file)
            sections = list(elf.iter_sections())
            regions = [_regions(section) for section in sections]
            sizes: dict[str, dict[str, int]] = {"flash": {}, "ram": {}}
            for section, names in zip(sections, regions, strict=True):
                for region in names:
                    sizes[region][UNNAMED] = sizes[region].get(UNNAMED, 0) + section["sh_size"]
            table: Any = elf.get_section_by_name(".symtab")
            sized = [each for each in (table.iter_symbols() if table else ())
                     if each["st_info"]["type"] in _KINDS and each["st_size"] and isinstance(each["st_shndx"], int)]  # fmt: skip
            thumb = ~1 if elf["e_machine"] == "EM_ARM" else ~0  # the lowest bit of a function's address is no part of it
            end, last = 0, -1
            # Some overlap: constructors of a class and of its base, entries into one function of libgcc.
            for each in sorted(sized, key=lambda each: (each["st_shndx"], each["st_value"] & thumb, -each["st_size"])):
                start, index = each["st_value"] & thumb, each["st_shndx"]
                begin = max(start, end) if index == last else start
                end, last, name = max(begin, start + each["st_size"]), index, each.name[:LONGEST_NAME]
                for region in regions[index] if end > begin else ():
                    sizes[region][name] = sizes[region].get(name, 0) + end - begin
                    sizes[region][UNNAMED] -= end - begin
            comment = elf.get_section_by_name(".comment")
            compilers = sorted({text.decode(errors="replace") for text in comment.data().split(b"\0") if text} if comment else ())
        except (ELFError, UnicodeError, IndexError, KeyError) as exc:
            raise FirmwareBuildError(
                f"{path} is no image of a linker: {exc}", f"delete it, and build it again: rm {path}"
            ) from exc
    return ImageSizes(compiler=", ".join(compilers)[:LONGEST_NAME] or "unknown", **sizes)


def _regions(section: Any) -> tuple[str, ...]:
    """Where a section lies on the board: "flash", "ram", both for initialized variables, or nowhere."""
    flags, is_stored = section["sh_flags"], section["sh_type"] != "SHT_NOBITS"
    if not flags & _ALLOCATED:
        return ()
    places = {"flash": is_stored, "ram": bool(flags & _WRITABLE)}
    return tuple(name for name, is_there in places.items() if is_there)


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Each name with its C++ symbols as their source has them, where binutils is installed."""
    kept = list(dict.fromkeys(names))
    tool = next(filter(None, map(shutil.which, ("c++filt", "arm-none-eabi-c++filt"))), None)
    if tool is None or not kept:
        return dict(zip(kept, kept, strict=True))
    try:
        done = subprocess.run([tool], input="\n".join(kept), capture_output=True, text=True, timeout=_DEMANGLE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return dict(zip(kept, kept, strict=True))
    lines = done.stdout.splitlines()
    return dict(zip(kept, lines if len(lines) == len(kept) else kept, strict=True))
