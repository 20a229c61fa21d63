"""Sets up a checkout: Debian packages, virtual environment, Python packages.

Run it with the system's Python 3.11 (``make`` does); it needs only the standard library. It prints what it
installs, and does nothing when nothing is missing.

    python3.11 host/bootstrap.py run     what `make run` needs: the native and emulated boards, TFLM
    python3.11 host/bootstrap.py all     everything: training, export, tests
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "host" / "constraints.txt"
LABGRID_CONSTRAINTS = ROOT / "host" / "labgrid-constraints.txt"
NPM_PACKAGES = ROOT / "host" / "balance_hil" / "boards" / "kinds" / "package.json"
TORCH = "torch==2.13.0"

EXTRAS = {"run": "int8,firmware", "all": "train,export,int8,firmware,report,video,parquet,live,farm,dev"}
# Debian package -> why; the text is shown to a user who has to install it by hand.
PACKAGES_RUN = {
    "python3.11-venv": "virtual environment",
    "g++": "firmware of the native board",
    "qemu-system-arm": "emulated Cortex-M boards",
    "gcc-arm-none-eabi": "their firmware",
    "libnewlib-arm-none-eabi": "their firmware",
    "libstdc++-arm-none-eabi-newlib": "their firmware",
}
PACKAGES_ALL = {
    **PACKAGES_RUN,
    "git": "firmware commit, tests",
    "npm": "emulator of the Raspberry Pi Pico",
    "ser2net": "serial ports of a labgrid farm",
    "libegl1": "headless pictures and videos",
    "libgl1": "onnx2tf (OpenCV)",
    "libglib2.0-0": "onnx2tf (OpenCV)",
}
OPTIONAL = {"ser2net"}  # what lacks it is skipped
PACKAGES = {"run": PACKAGES_RUN, "all": PACKAGES_ALL}


def main() -> None:
    """Installs what the profile on the command line needs and records it in a stamp file."""
    profile = sys.argv[1] if len(sys.argv) == 2 else ""
    if profile not in EXTRAS:
        fail(f"unknown profile {profile!r}", "run: python3.11 host/bootstrap.py run|all")
    if sys.version_info[:2] != (3, 11):
        fail(
            f"this is Python {sys.version_info[0]}.{sys.version_info[1]}; TensorFlow 2.19 and the TFLM wheel need 3.11",
            "run: make PYTHON=/path/to/python3.11 …   (Debian 12: apt-get install python3.11)",
        )
    stamp = VENV / f".ready-{profile}"
    if stamp.exists() and stamp.read_text() == fingerprint():
        return
    install_debian_packages(PACKAGES[profile])
    create_venv()
    if profile == "all":
        install_torch()
    say(f"installing the Python packages of the extras [{EXTRAS[profile]}]")
    pip("install", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[{EXTRAS[profile]}]")
    if profile == "all":
        install_emulators()
        install_labgrid()
    stamp.write_text(fingerprint())


def install_debian_packages(wanted: dict[str, str]) -> None:
    """Installs missing packages as root or with sudo; otherwise names them and exits."""
    if not shutil.which("dpkg-query"):
        say("this is not Debian: install the equivalents of " + ", ".join(wanted))
        return
    missing = [name for name, why in wanted.items() if not provided(name)]
    if not missing:
        return
    say("installing the Debian packages " + ", ".join(f"{name} ({wanted[name]})" for name in missing))
    prefix = root_prefix()
    if prefix is None and OPTIONAL.issuperset(missing):
        say(f"going on without: {' '.join(missing)}")
        return
    if prefix is None:
        fail(
            "these Debian packages are missing and this user is neither root nor allowed to use sudo: " + " ".join(missing),
            f"ask an administrator to run: apt-get install {' '.join(missing)}",
        )
    environment = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive"]
    check([*environment, "apt-get", "update", "-qq"], "apt-get update failed")
    check([*environment, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], "apt-get install failed")
    if "ser2net" in missing and Path("/run/systemd/system").is_dir():  # its package starts a server on five ports
        subprocess.run([*prefix, "systemctl", "disable", "--now", "--quiet", "ser2net"])


def provided(package: str) -> bool:
    """Whether the package, or its program, is installed."""
    if package == "python3.11-venv":  # a Python that is not Debian's brings its own
        return subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0
    programs = {
        "g++": "g++",
        "git": "git",
        "npm": "npm",
        "qemu-system-arm": "qemu-system-arm",
        "gcc-arm-none-eabi": "arm-none-eabi-g++",
    }
    if package in programs:
        return shutil.which(programs[package]) is not None
    query = subprocess.run(["dpkg-query", "-W", "-f=${Status}", package], capture_output=True, text=True)
    return "install ok installed" in query.stdout


def root_prefix() -> list[str] | None:
    """Prefix of a command that must run as root; None if that is impossible."""
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        return None
    interactive = sys.stdin.isatty()
    allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return ["sudo"] if interactive or allowed else None


def create_venv() -> None:
    """Makes ``.venv`` unless it is there and works."""
    python = VENV / "bin" / "python"
    works = python.exists() and subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0
    if works:
        return
    say("creating the virtual environment .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    check([sys.executable, "-m", "venv", str(VENV)], "creating the virtual environment failed")


def install_torch() -> None:
    """PyTorch first, as a CPU build, so that no later package pulls in the several GB of CUDA libraries."""
    if subprocess.run([str(VENV / "bin" / "python"), "-c", "import torch"], capture_output=True).returncode == 0:
        return
    say("installing PyTorch, CPU build")
    if try_pip("install", f"{TORCH}+cpu"):
        return
    say(
        "none of the configured indexes has PyTorch's CPU build: installing the default build, several GB on Linux. "
        "To avoid that, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index (see pytorch.org) and start again."
    )
    pip("install", TORCH)


def install_emulators() -> None:
    """npm packages that emulate microcontrollers. Without them only the boards that need them are missing."""
    folder = VENV / "emulators"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(NPM_PACKAGES, folder / "package.json")
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error"]
    say("installing the npm packages of emulated boards")
    if shutil.which("npm") is None or subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        say(f"npm failed or is not installed: the board pico cannot be emulated until this works: {' '.join(command)}")


def install_labgrid() -> None:
    """labgrid, in an environment of its own. Without it only the boards of labgrid farms are missing."""
    folder = VENV / "labgrid"
    pip_there = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip_there, "install", "-q", "-c", str(LABGRID_CONSTRAINTS), "labgrid"]
    say("installing labgrid")
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
            say(f"boards of labgrid farms cannot be used until this works: {' '.join(command)}")
            return


def pip(*arguments: str) -> None:
    """Runs the virtual environment's pip; a failure ends the set-up with pip's own message."""
    if not try_pip(*arguments, quiet=False):
        fail("pip failed, see above", "check the network, then run the same command again: what is installed stays")


def try_pip(*arguments: str, quiet: bool = True) -> bool:
    """Whether the virtual environment's pip succeeded."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    command[5:5] = ["-q"]
    errors = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, stderr=errors).returncode == 0


def fingerprint() -> str:
    """Changes with the list of packages to install."""
    sources = (ROOT / "pyproject.toml", CONSTRAINTS, NPM_PACKAGES, LABGRID_CONSTRAINTS, Path(__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def check(command: list[str], message: str) -> None:
    """Runs a command; a failure ends the set-up."""
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        fail(f"{message}: {' '.join(command)}", "see the lines above; then run the same command again")


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def fail(message: str, hint: str) -> None:
    """Prints an error with its hint and exits."""
    print(f"error: {message}\nhint:  {hint}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
