"""The examples that a user copies build in a project of the user's own, with the firmware's libraries, and do what they say."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards.kinds.qemu import emulator
from balance_hil.bundle import HEADER, Bundle
from balance_hil.errors import HarnessError
from balance_hil.firmware_build import build_lock, check_cross_tools, platformio_settings, prepare_platformio
from balance_hil.paths import PROJECT, SHIPPED
from balance_hil.quantize import Normalization, dequantize
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_bundle import synthetic_bundle

FIRMWARE = SHIPPED / "firmware"
EXAMPLES = FIRMWARE / "examples"
DEADLINE_S = 60.0
ROWS = 50
# What the user of an MPS2 board would write: floats come in and go out on its UART, as they lie in memory.
CORTEX_ROBOT = """#pragma once
#include "hal_mps/hal_mps.h"
namespace robot {
inline hil::mps::CmsdkUart& Port() {
  static hil::mps::CmsdkUart uart;
  static const bool opened = (uart.Open(921600), true);
  (void)opened;
  return uart;
}
inline bool Sense(float* observation, size_t n_obs) {
  auto* bytes = reinterpret_cast<uint8_t*>(observation);
  for (size_t got = 0; got < 4 * n_obs;) {
    Port().Wait(UINT32_MAX);
    got += Port().Read(bytes + got, 4 * n_obs - got);
  }
  return true;
}
inline void Drive(const float* action, size_t n_act) { Port().Write(reinterpret_cast<const uint8_t*>(action), 4 * n_act); }
inline void Stop() {}
}  // namespace robot
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    by = Normalization(np.linspace(-2, 2, 7), np.geomspace(0.1, 10, 7), 5.0)
    return synthetic_bundle(tmp_path_factory.mktemp("bundle") / "policy", 7, 3, normalization=by)


def project(folder: Path, bundle: Bundle, example: str, settings: str) -> Path:
    """A PlatformIO project of a user's own: the example, model.h of the bundle, the libraries by their folder."""
    shutil.copytree(EXAMPLES / example / "src", folder / "src")
    shutil.copytree(EXAMPLES / example / "include", folder / "include", dirs_exist_ok=True)
    shutil.copy(bundle.file(HEADER), folder / "include" / "model.h")
    (folder / "platformio.ini").write_text(f"[env:mine]\nplatform = symlink://{FIRMWARE / 'platform'}\n{settings}\n")
    return folder


def pio_run(folder: Path) -> Path:
    """Builds it with a PlatformIO folder of its own, which has nothing but SCons: nothing comes from the registry."""
    with build_lock():
        prepare_platformio()
        core = folder / "core"
        shutil.copytree(PROJECT / ".platformio/packages", core / "packages")
    (PROJECT / ".pio/objects").mkdir(exist_ok=True)
    (folder / ".pio").mkdir()
    (folder / ".pio/objects").symlink_to(PROJECT / ".pio/objects")  # what another example compiled of the same sources
    settings = platformio_settings("mine") | {
        "PLATFORMIO_CORE_DIR": str(core),
        "PLATFORMIO_BUILD_DIR": str(folder / ".pio/build"),
    }
    command = [sys.executable, "-m", "platformio", "run", "--project-dir", str(folder)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return next(
        path for path in sorted((folder / ".pio/build/mine").glob("program*"), reverse=True) if path.suffix in ("", ".elf")
    )


def golden(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and the actions that the host computes for them."""
    with np.load(bundle.file("golden.npz")) as arrays:
        rows = arrays["observations"][:ROWS]
    outputs = TflmRuntime(bundle.model()).infer_raw_batch(bundle.quantized(rows))
    return rows, dequantize(outputs, bundle.output_quant)


LIBRARIES = f"lib_extra_dirs = {FIRMWARE / 'lib'}\nlib_compat_mode = off\nbuild_flags = -std=c++17"


@pytest.mark.timeout(600)
def test_own_loop_on_this_computer(bundle: Bundle, tmp_path: Path) -> None:
    program = pio_run(project(tmp_path, bundle, "own_loop", f"board = native\n{LIBRARIES}"))
    rows, actions = golden(bundle)
    lines = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in rows)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, timeout=DEADLINE_S)
    got = np.array([[float(word) for word in line.split()] for line in done.stdout.splitlines()], np.float32)
    assert np.array_equal(got, actions)
    stopped = subprocess.run([program], input="nan 0 0 0 0 0 0", capture_output=True, text=True, timeout=DEADLINE_S)
    assert stopped.stdout == "stop\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_own_loop_on_a_cortex_m(bundle: Bundle, tmp_path: Path) -> None:
    try:
        qemu = emulator()
        check_cross_tools()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    folder = project(tmp_path, bundle, "own_loop", f"board = qemu_m4\n{LIBRARIES}")
    (folder / "include" / "robot.h").write_text(CORTEX_ROBOT)
    image = pio_run(folder)
    rows, actions = golden(bundle)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as link:
        link.settimeout(DEADLINE_S)
        command = [qemu, "-M", "mps2-an386", "-kernel", str(image), "-nodefaults", "-display", "none"]
        command += ["-chardev", f"socket,id=uart,fd={server.fileno()},server=on,wait=on,nodelay=on", "-serial", "chardev:uart"]
        with subprocess.Popen(command, pass_fds=[server.fileno()], stderr=subprocess.DEVNULL) as process:
            try:
                for row, action in zip(rows, actions, strict=True):
                    link.sendall(row.astype("<f4").tobytes())
                    reply = b""
                    while len(reply) < action.nbytes:
                        reply += link.recv(action.nbytes - len(reply))
                    assert reply == action.tobytes()
            finally:
                process.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_library_is_added_by_lib_deps_too(bundle: Bundle, tmp_path: Path) -> None:
    used = ("engine_int8", "engine", "policy", "quantize", "hal", "status")
    dependencies = "".join(f"\n  symlink://{FIRMWARE / 'lib' / name}" for name in used)
    settings = f"board = native\nbuild_flags = -std=c++17\nlib_compat_mode = off\nlib_deps ={dependencies}"
    pio_run(project(tmp_path, bundle, "own_loop", settings))


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [("g++", []), ("arm-none-eabi-g++", ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"])],
    ids=["native", "m4"],
)
def test_host_driven_compiles(bundle: Bundle, tmp_path: Path, compiler: str, flags: list[str]) -> None:
    """Against the stand-in for an Arduino core; without PlatformIO, whose Arduino cores come from its registry."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: make setup")
    includes = [f"-I{path}" for path in [*(FIRMWARE / "lib").glob("*/include"), FIRMWARE / "test/arduino", bundle.path]]
    source = EXAMPLES / "host_driven/src/main.cpp"
    command = [compiler, "-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-Os", *flags, *includes, "-c", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "main.o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_own_loop_is_short() -> None:
    source = (EXAMPLES / "own_loop/src/main.cpp").read_text()
    assert len([line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("//")]) <= 15


def test_every_library_has_a_manifest_that_names_it() -> None:
    for folder in (FIRMWARE / "lib").iterdir():
        assert re.search(rf'"name": "{folder.name}"', (folder / "library.json").read_text()), folder
