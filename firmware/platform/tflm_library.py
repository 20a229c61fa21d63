"""For images that run TensorFlow Lite Micro: finds the library that the user supplies, or reports what is missing."""

import json
import os
import sys
from pathlib import Path

Import("env")  # noqa: F821  # PlatformIO's

HEADER = "tensorflow/lite/micro/micro_interpreter.h"
ABSENT = f"""error: {{environment}} runs TensorFlow Lite Micro, and its C++ library was not found
error: {{fact}}
TFLM is in no package registry in a current version. Its own project generator writes a tree of its sources; make a PlatformIO
library of that tree (a folder with a library.json whose include paths reach {HEADER})
and name the folder that holds this library folder: HIL_TFLM_LIB=/path/to/libraries
Without TFLM the compact engine runs the same models: pio run -e {{other}}
"""


def main(env):
    """Checks the library, takes its version, and keeps our warnings away from code that is not ours."""
    storage = os.environ.get("HIL_TFLM_LIB", "")
    library = find_library(Path(storage)) if storage else None
    if library is None:
        fact = f"HIL_TFLM_LIB={storage} holds no library with {HEADER}" if storage else "HIL_TFLM_LIB is not set"
        sys.stderr.write(ABSENT.format(environment=env["PIOENV"], fact=fact, other=env["PIOENV"].removesuffix("_tflm")))
        env.Exit(1)
    version = json.loads((library / "library.json").read_text()).get("version", "unknown")
    env.Append(CPPDEFINES=[("HIL_TFLM_VERSION", env.StringifyMacro(version))])
    env.AddBuildMiddleware(foreign, "*")


def find_library(storage):
    """The library folder in ``storage`` that has TFLM's headers; None when there is none."""
    for manifest in sorted(storage.glob("*/library.json")):
        if any(manifest.parent.glob(HEADER)) or any(manifest.parent.glob(f"*/{HEADER}")):
            return manifest.parent
    return None


def foreign(env, node):
    """Compiles what is not the project's own without warnings, and for speed: at -Os TFLM takes almost twice the instructions."""
    own = Path(env.subst("$PROJECT_DIR")) / "firmware"
    if Path(node.srcnode().get_abspath()).is_relative_to(own):
        return node
    flags = [flag for flag in env["CCFLAGS"] if not str(flag).startswith("-W")]
    return env.Object(node, CCFLAGS=[*flags, "-O2", "-w"], CXXFLAGS=[f for f in env["CXXFLAGS"] if not str(f).startswith("-W")])


main(env)  # noqa: F821
