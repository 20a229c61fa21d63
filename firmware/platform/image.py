"""What every image is given: its identity, and for boards that carry it, the model."""

import os
import re
import sys
from pathlib import Path


def add_build_info(env, processor, board):
    """Writes build_info.h, only when it changes: a new commit recompiles the one file that includes it."""
    facts = {
        "HIL_FIRMWARE_COMMIT": os.environ.get("HIL_FIRMWARE_COMMIT") or _commit(env),
        "HIL_PROCESSOR": processor,
        "HIL_BOARD_NAME": board,
    }
    text = "#pragma once\n\n" + "".join(f'#define {name} "{value}"\n' for name, value in facts.items())
    for name, what in (("HIL_BAUD", "bits per second"), ("HIL_MODEL_ARENA_BYTES", "bytes")):
        if number := os.environ.get(name):
            if not number.isdecimal():
                sys.stderr.write(f"error: {name}={number} is no number of {what}, as in {name}=115200\n")
                env.Exit(1)
            text += f"#define {name} {number}\n"
    _write(generated_folder(env) / "build_info.h", text)


def _commit(env):
    """As the host computes it; "unknown" for a PlatformIO that was installed by itself."""
    sys.path.insert(0, env.subst("$PROJECT_DIR/host"))
    try:
        from balance_hil.firmware_build import firmware_commit
    except ImportError:
        return "unknown"
    return firmware_commit()


def add_model(env):
    """Copies model.h of the bundle that HIL_MODEL names (models/ppo by default); another bundle recompiles only its users.

    A project that has a model.h of its own in its include folder keeps that.
    """
    if "HIL_MODEL" not in os.environ and (Path(env.subst("$PROJECT_INCLUDE_DIR")) / "model.h").is_file():
        return
    source = Path(env.subst("$PROJECT_DIR")) / os.environ.get("HIL_MODEL", "models/ppo") / "model.h"
    if not source.is_file():
        sys.stderr.write(f"error: there is no {source}: export the policy, or name its folder with HIL_MODEL\n")
        env.Exit(1)
    text = source.read_text()
    _write(generated_folder(env) / "model.h", text)
    sizes = re.findall(r"^#define HIL_MODEL_(MAX_OBS|MAX_ACT) (\d+)$", text, re.MULTILINE)
    env.Append(CPPDEFINES=[(f"HIL_{name}", count) for name, count in sizes])
    if "#define HIL_MODEL_ELEMENT_TYPE" in text:
        env.Append(CPPDEFINES=[("HIL_WIDE", 1)])


def generated_folder(env):
    """Folder of the headers that are made for one environment; on the include path."""
    folder = Path(env.subst("$BUILD_DIR")) / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    if str(folder) not in env.get("CPPPATH", []):
        env.Append(CPPPATH=[str(folder)])
    return folder


def _write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
