"""Builds one environment: compiler flags, generated build information, and the program."""

import os
import sys
from pathlib import Path

from SCons.Script import AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()
sys.path.insert(0, env.PioPlatform().get_dir())
from custom import configure  # noqa: E402 - below the line that makes it importable
from image import add_build_info, add_model  # noqa: E402 - below the line that makes it importable
from objects import share_objects  # noqa: E402 - below the line that makes it importable
from uf2 import finish  # noqa: E402 - below the line that makes it importable

board = env.BoardConfig()
toolchain = board.get("build.toolchain", "")  # "" = the system's own, "arm-none-eabi-", ...


def bare_metal(env, board):
    """Flags for a Cortex-M without an operating system: our own start-up code and linker script, newlib's small library."""
    cpu = list(board.get("build.cpu_flags"))
    # Space counts, but for the inner loops: see for_speed.py of engine_int8.
    env.Replace(CCFLAGS=["-Os" if flag == "-O2" else flag for flag in env["CCFLAGS"]])
    scripts = Path(env.PioPlatform().get_dir()) / "ld"
    env.Append(
        CCFLAGS=cpu,
        CXXFLAGS=["-fno-threadsafe-statics", "-fno-use-cxa-atexit"],
        CPPDEFINES=[board.get("build.machine_define")],
        LINKFLAGS=[*cpu, "-nostartfiles", "--specs=nano.specs", f"-L{scripts}", f"-Wl,-T,{board.get('build.ldscript')}"],
    )
    env.Append(LINKFLAGS=["-Wl,--fatal-warnings", "-Wl,-Map,${BUILD_DIR}/program.map"])
    add_model(env)
    env.Replace(PROGSUFFIX=".elf")


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
own_name, processor_name = configure(env, board) if board.get("build.ldscript", "") == "board.ld" else ("", "")
if board.get("build.ldscript", ""):
    bare_metal(env, board)


def processor():
    """Instruction set of the board."""
    if board.get("build.mcu") == "host":
        return os.uname().machine
    return processor_name or board.get("build.mcu")


name = env["PIOENV"].removesuffix("_tflm").removesuffix("_faults").replace("_", "-")
add_build_info(env, processor(), board=own_name or board.get("build.board_name", "") or name)

share_objects(env)
program = env.BuildProgram()
if family := board.get("build.uf2_family", ""):
    env.AddPostAction(program, lambda target, source, env: finish(Path(str(target[0])), toolchain, 0x10000000, int(family, 0)))
elif board.get("build.ldscript", "").startswith(("stm32", "board")):  # st-flash takes a binary file
    env.AddPostAction(program, env.VerboseAction(f"{toolchain}objcopy -O binary $TARGET ${{TARGET.base}}.bin", "Copying $TARGET"))
AlwaysBuild(env.Alias("buildprog", program))
Default("buildprog")
