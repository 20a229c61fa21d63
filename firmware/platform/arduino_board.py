"""For boards with an Arduino core: their platform builds them, this adds the project's identity and the model."""

import sys

Import("env")  # noqa: F821  # PlatformIO's
sys.path.insert(0, env.subst("$PROJECT_DIR/firmware/platform"))  # noqa: F821
from image import add_build_info, add_model  # noqa: E402 - below the line that makes it importable

add_model(env)  # noqa: F821
if "arduino" in env.get("PIOFRAMEWORK", []):  # noqa: F821  # the project's own platform does this itself
    add_build_info(env, env.BoardConfig().get("build.mcu"), board=env["PIOENV"].removesuffix("_tflm"))  # noqa: F821
