"""Builds one environment: compiler flags, generated build information, and the program."""

import os
import sys
from pathlib import Path

from SCons.Script import AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()
sys.path.insert(0, env.subst("$PROJECT_DIR/host"))
from balance_hil.firmware_build import firmware_commit  # noqa: E402  # one definition, needs nothing but Python

board = env.BoardConfig()
toolchain = board.get("build.toolchain", "")  # "" = the system's own, "arm-none-eabi-", ...

env.Replace(
    AR=f"{toolchain}gcc-ar",
    AS=f"{toolchain}gcc",
    CC=f"{toolchain}gcc",
    CXX=f"{toolchain}g++",
    LINK=f"{toolchain}g++",
    RANLIB=f"{toolchain}gcc-ranlib",
    SIZETOOL=None,
)
env.Append(
    CCFLAGS=["-O2", "-g", "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"],
    CXXFLAGS=["-std=c++17", "-fno-exceptions", "-fno-rtti", "-Wnon-virtual-dtor"],
    LINKFLAGS=["-Wl,--gc-sections"],
)


def processor():
    """Instruction set of the board."""
    if board.get("build.mcu") == "host":
        return os.uname().machine
    return board.get("build.mcu")


# In a header of its own, written only when it changes: a new commit recompiles the one file that includes it.
generated = Path(env.subst("$BUILD_DIR")) / "generated"
header = generated / "build_info.h"
text = f'#pragma once\n\n#define HIL_FIRMWARE_COMMIT "{firmware_commit()}"\n#define HIL_PROCESSOR "{processor()}"\n'
if not header.exists() or header.read_text() != text:
    generated.mkdir(parents=True, exist_ok=True)
    header.write_text(text)
env.Append(CPPPATH=[str(generated)])

program = env.BuildProgram()
AlwaysBuild(env.Alias("buildprog", program))
Default("buildprog")
