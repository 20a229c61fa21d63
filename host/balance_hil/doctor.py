"""Checks of the installation: what is there, what is missing, and the command that fixes it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from balance_hil.paths import install_command
from balance_hil.processes import tied
from balance_hil.runtimes.tflm import wheel_exists

State = Literal["ok", "missing", "optional"]

# Distribution -> what stops working without it, by extra of pyproject.toml.
DISTRIBUTIONS: dict[str, dict[str, str]] = {
    "core": {
        "numpy": "everything",
        "pyserial": "boards",
        "mujoco": "the simulated robot",
        "gymnasium": "the environments",
        "mcap": "recordings",
        "cobs": "the wire protocol",
        "pyyaml": "files of options",
        "platformdirs": "building firmware",
        "filelock": "building firmware",
    },
    "int8": {
        "tflite-micro": "the tflm runtime and the native board's TFLM engine",
        "ai-edge-litert": "the float32 and int8 desktop runtimes",
        "onnxruntime": "the onnx runtime",
    },
    "firmware": {"platformio": "building firmware", "scons": "building firmware"},
    "train": {"torch": "hil train, the torch runtime", "stable-baselines3": "hil train", "tensorboard": "hil train"},
    "export": {"onnx": "hil export", "onnx2tf": "hil export", "tensorflow": "hil export"},
    "report": {"matplotlib": "--picture of hil compare and hil evaluate"},
    "parquet": {"pyarrow": "hil recordings export --to parquet"},
    "farm": {"distributed": "--cluster"},
    "video": {"imageio": "hil evaluate --video", "imageio-ffmpeg": "hil evaluate --video"},
}
# What the main job, `hil run` on the native and the emulated board, cannot do without.
NEEDED_EXTRAS = ("core", "int8", "firmware")
NEEDED: State = "missing" if sys.platform == "linux" else "optional"  # emulated boards need Linux


@dataclass(frozen=True)
class Check:
    """One line of ``hil doctor``. ``state`` is "optional" for something missing that the main job does not need."""

    name: str
    state: State
    found: str  # what is there
    hint: str = ""  # the command that fixes it; empty when nothing is wrong

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def run_checks() -> list[Check]:
    """Every check, in the order of the chain from Python to the board."""
    return [_python(), *_distributions(), _compiler(), _native_firmware(), *_machine()]


def _machine() -> list[Check]:
    return [_cortex_m(), _rp2040(), *_flash_tools(), _real_time(), _cpu_latency(), _serial_group(), _opengl(), _display()]


def is_healthy(checks: list[Check]) -> bool:
    """Whether the main job can run."""
    return all(check.state != "missing" for check in checks)


def _python() -> Check:
    found = f"{platform.python_version()} on {sys.platform} {platform.machine()}"
    if sys.version_info < (3, 13):
        return Check("Python", "ok", found)
    return Check("Python", "optional", found, "hil export needs TensorFlow 2.19, which exists up to Python 3.12")


def _distributions() -> list[Check]:
    return [_distribution(extra, name, purpose) for extra, names in DISTRIBUTIONS.items() for name, purpose in names.items()]


def _distribution(extra: str, name: str, purpose: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        if name == "tflite-micro" and not wheel_exists():
            return Check(name, "ok", "has no wheel for this computer; emulated, bit for bit")
        state: State = "missing" if extra in NEEDED_EXTRAS else "optional"
        return Check(name, state, f"not installed; needed for {purpose}", install_command("" if extra == "core" else extra))


def _compiler() -> Check:
    path = shutil.which("g++")
    if path is None:
        return Check("C++ compiler", NEEDED, "no g++; needed for the native board", "apt-get install g++")
    version = subprocess.run([path, "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    return Check("C++ compiler", "ok", f"g++ {version}")


def _native_firmware() -> Check:
    from balance_hil.errors import HarnessError
    from balance_hil.firmware_build import native_is_current

    try:
        current = native_is_current()
    except HarnessError as exc:
        return Check("native firmware", NEEDED, exc.message, exc.hint)
    if current:
        return Check("native firmware", "ok", "built and up to date")
    return Check("native firmware", "ok", "not built yet; the first hil run builds it")


def _cortex_m() -> Check:
    from balance_hil.boards.kinds.qemu import check_installation
    from balance_hil.errors import HarnessError

    try:
        check_installation()
    except HarnessError as exc:
        return Check("emulated Cortex-M", NEEDED, exc.message, exc.hint)
    return Check("emulated Cortex-M", "ok", "QEMU, compiler and library are installed")


def _rp2040() -> Check:
    from balance_hil.boards.kinds.rp2040 import emulator
    from balance_hil.errors import HarnessError

    try:
        emulator()
    except HarnessError as exc:
        return Check("emulated RP2040", "optional", exc.message, exc.hint)
    return Check("emulated RP2040", "ok", "Node and rp2040js are installed")


def _flash_tools() -> list[Check]:
    from balance_hil.boards.definition import SHIPPED, load_definitions
    from balance_hil.boards.flash_tool import TOOLS, installed_tool
    from balance_hil.errors import FlashToolMissingError

    boards = load_definitions(SHIPPED).values()
    checks = []
    for upload, tools in TOOLS.items():
        users = [board for board in boards if board.upload == upload]
        name = " or ".join(tool.name for tool in tools)
        try:
            checks += [Check(name, "ok", installed_tool(users[0]).words[-1])] if upload != "platformio" else []
        except FlashToolMissingError as exc:
            names = ", ".join(board.name for board in users)
            checks.append(
                Check(name, "optional", f"not installed; needed to flash {names}", exc.hint.removeprefix("install it: "))
            )
    return checks


def _cpu_latency() -> Check:
    from balance_hil.scheduling import CPU_LATENCY, CpuLatencyRequest

    if not CPU_LATENCY.exists():
        return Check("processor sleep", "ok", "this system has no setting for it")
    with contextlib.closing(CpuLatencyRequest()) as request:
        if request.granted:
            return Check("processor sleep", "ok", "off during a run: replies do not wait for a processor to wake up")
    rule = 'KERNEL=="cpu_dma_latency", GROUP="users", MODE="0660"'
    hint = f"echo '{rule}' | sudo tee /etc/udev/rules.d/99-cpu-latency.rules, then reboot"
    return Check("processor sleep", "optional", "cannot be turned off: idle processors delay replies", hint)


def _real_time() -> Check:
    from balance_hil.scheduling import real_time_priority

    with real_time_priority(()) as granted:
        pass
    if granted:
        return Check("real-time priority", "ok", "granted: other programs do not delay a real-time run")
    hint = "for a busy computer: a line '@users - rtprio 3' in /etc/security/limits.conf, then log in again"
    return Check("real-time priority", "optional", "not granted: other programs may delay a real-time run", hint)


def _serial_group() -> Check:
    if sys.platform == "win32":
        return Check("serial ports", "ok", "Windows requires no group")
    if os.geteuid() == 0:
        return Check("serial ports", "ok", "running as root")
    import grp

    names = {grp.getgrgid(gid).gr_name for gid in os.getgroups()}
    if names & {"dialout", "uucp"}:
        return Check("serial ports", "ok", "in group " + ", ".join(sorted(names & {"dialout", "uucp"})))
    hint = "for physical boards: sudo usermod -aG dialout $USER, then log in again"
    return Check("serial ports", "optional", "not in the group that owns serial ports", hint)


def _opengl() -> Check:
    return _probe(
        "headless pictures",
        "import os; os.environ['MUJOCO_GL']='egl'; import mujoco; mujoco.GLContext(16,16).make_current()",
        "EGL renders",
        "apt-get install libegl1",
    )


def _display() -> Check:
    if sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return Check("display", "ok", "windows can be opened")
    return Check("display", "optional", "none: --view cannot open a window", "use --video FILE.mp4 instead")


def _probe(name: str, program: str, found: str, hint: str) -> Check:
    """Runs a line of Python in a subprocess: a broken graphics driver may crash it."""
    result = subprocess.run(tied([sys.executable, "-c", program]), capture_output=True, text=True, check=False, timeout=60)
    if result.returncode == 0:
        return Check(name, "ok", found)
    reason = (result.stderr.strip().splitlines() or ["crashed"])[-1]
    return Check(name, "optional", reason, hint)
