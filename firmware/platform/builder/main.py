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


def bare_metal(env, board):
    """Flags for a Cortex-M without an operating system: our own start-up code and linker script, newlib's small library."""
    cpu = list(board.get("build.cpu_flags"))
    scripts = Path(env.subst("$PROJECT_DIR")) / "firmware/platform/ld"
    env.Append(
        CCFLAGS=cpu,
        CXXFLAGS=["-fno-threadsafe-statics", "-fno-use-cxa-atexit"],
        CPPDEFINES=[board.get("build.machine_define")],
        LINKFLAGS=[*cpu, "-nostartfiles", "--specs=nano.specs", f"-L{scripts}", f"-Wl,-T,{board.get('build.ldscript')}"],
    )
    env.Append(LINKFLAGS=["-Wl,--fatal-warnings", "-Wl,-Map,${BUILD_DIR}/program.map"])
    env.Append(CPPPATH=[str(model_folder(env))])
    env.Replace(PROGSUFFIX=".elf")


def model_folder(env):
    """Folder of the model.h that goes into the image."""
    folder = Path(env.subst("$PROJECT_DIR")) / os.environ.get("HIL_MODEL", "models/ppo")
    if not (folder / "model.h").is_file():
        sys.stderr.write(f"error: there is no {folder / 'model.h'}: export the policy, or name its folder with HIL_MODEL\n")
        env.Exit(1)
    return folder


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
if board.get("build.ldscript", ""):
    bare_metal(env, board)


def processor():
    """Instruction set of the board."""
    if board.get("build.mcu") == "host":
        return os.uname().machine
    return board.get("build.mcu")


# In a header of its own, written only when it changes: a new commit recompiles the one file that includes it.
generated = Path(env.subst("$BUILD_DIR")) / "generated"
header = generated / "build_info.h"
facts = {"HIL_FIRMWARE_COMMIT": firmware_commit(), "HIL_PROCESSOR": processor(), "HIL_BOARD_NAME": env["PIOENV"].replace("_", "-")}
text = "#pragma once\n\n" + "".join(f'#define {name} "{value}"\n' for name, value in facts.items())
if not header.exists() or header.read_text() != text:
    generated.mkdir(parents=True, exist_ok=True)
    header.write_text(text)
env.Append(CPPPATH=[str(generated)])

program = env.BuildProgram()
AlwaysBuild(env.Alias("buildprog", program))
Default("buildprog")
