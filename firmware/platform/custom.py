"""A board of a user's own: what its TOML file says about the chip, as compiler flags and a linker script."""

import os
import sys
import tomllib
from pathlib import Path

from image import generated_folder

# Number of the board's file -> name in the firmware.
NUMBERS = ("clock_hz", "rx_irq", "rx_buffer", "arena_bytes", "upload_bytes")


def configure(env, board):
    """Sets the board's flags and memories, and compiles the files of its folder ``hal``. Returns its name and processor."""
    if "HIL_BOARD_FILE" not in os.environ:
        sys.stderr.write("error: HIL_BOARD_FILE is not set: it names the TOML file of a board with a folder hal\n")
        env.Exit(1)
    path = Path(os.environ["HIL_BOARD_FILE"])
    facts = tomllib.loads(path.read_text())
    flags = facts["cpu_flags"].split()
    board.update("build.cpu_flags", flags)
    folder = generated_folder(env)
    script = (
        "MEMORY\n{\n"
        f"  FLASH (rx) : ORIGIN = {facts.get('flash_address', 0):#x}, LENGTH = {facts['flash_bytes']}\n"
        f"  RAM (rwx)  : ORIGIN = {facts.get('ram_address', 0x20000000):#x}, LENGTH = {facts['ram_bytes']}\n"
        "}\nINCLUDE sections.ld\n"
    )
    (folder / "board.ld").write_text(script)
    defaults = {"rx_buffer": 1024, "arena_bytes": 16384, "upload_bytes": 8192}
    libraries = Path(env.PioPlatform().get_dir()).parent / "lib"
    env.Append(
        CPPPATH=[str(libraries / name / "include") for name in ("hal_custom", "hal_cortex", "hal")],
        CPPDEFINES=[(f"HIL_{name.upper()}", facts.get(name, defaults.get(name))) for name in NUMBERS],
        LINKFLAGS=[f"-L{folder}"],
    )
    sources = env.BuildSources(str(Path("$BUILD_DIR") / "hal" / facts["name"]), str(path.parent / facts["hal"]))
    return facts["name"], next(flag.removeprefix("-mcpu=") for flag in flags if flag.startswith("-mcpu="))
