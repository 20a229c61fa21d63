"""For images that run TensorFlow Lite Micro: finds the library that the user supplies, or reports what is missing."""

import hashlib
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
    # One folder and one cache for all environments: each processor's library is compiled once, also if that is interrupted.
    objects = Path(env.subst("$PROJECT_WORKSPACE_DIR")) / "tflm"
    objects.mkdir(parents=True, exist_ok=True)
    version = json.loads((library / "library.json").read_text()).get("version", "unknown")
    env.Append(CPPDEFINES=[("HIL_TFLM_VERSION", env.StringifyMacro(version))])
    files = []

    def count(target, source, env, for_signature):  # SCons calls it by these names, when all files are known
        return str(len(files))

    env.Replace(TFLM_FILES=count)
    env.AddBuildMiddleware(lambda env, node: foreign(env, node, Path(storage).absolute(), objects, files), "*")


def find_library(storage):
    """The library folder in ``storage`` that has TFLM's headers; None when there is none."""
    for manifest in sorted(storage.glob("*/library.json")):
        if any(manifest.parent.glob(HEADER)) or any(manifest.parent.glob(f"*/{HEADER}")):
            return manifest.parent
    return None


def foreign(env, node, storage, objects, files):
    """Compiles what is not the project's own without warnings, and for speed: at -Os TFLM takes almost twice the instructions.

    The objects of the user's libraries depend on nothing of the project, and so are shared by its environments.
    """
    project = Path(env.subst("$PROJECT_DIR"))
    source = Path(node.srcnode().get_abspath())
    if source.is_relative_to(project / "firmware"):
        return node
    # Without fused multiply-adds, float32 models compute on every core what they compute on the desktop.
    flags = {
        "CCFLAGS": [*(flag for flag in env["CCFLAGS"] if not str(flag).startswith("-W")), "-O2", "-ffp-contract=off", "-w"],
        "CXXFLAGS": [flag for flag in env["CXXFLAGS"] if not str(flag).startswith("-W")],
    }
    if not source.is_relative_to(storage):
        return env.Object(node, **flags)
    includes = [str(env.Dir(folder)) for folder in env.get("CPPPATH", [])]
    flags["CPPPATH"] = [folder for folder in includes if Path(folder).is_relative_to(storage)]
    flags["CPPDEFINES"] = [item for item in env.get("CPPDEFINES", []) if "HIL_" not in str(item)]
    key = hashlib.sha256(repr([str(storage), env.subst("$CXX"), env["CFLAGS"], flags]).encode()).hexdigest()[:12]
    files.append(source)
    place = f"TensorFlow Lite Micro: file {len(files)} of $TFLM_FILES"
    for command in ("CCCOMSTR", "CXXCOMSTR", "ASPPCOMSTR"):
        if command in env:  # not with --verbose
            flags[command] = f"Compiling {place}: {source.name}"
    name = source.relative_to(storage).with_suffix(source.suffix + ".o")
    cached = env.Clone(**flags)
    cached.CacheDir(str(objects / "cache"))
    return cached.Object(str(objects / key / name), node.srcnode())


main(env)  # noqa: F821
