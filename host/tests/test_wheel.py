"""The wheel holds everything: installed into an environment of its own, in an empty folder, it balances the robot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from balance_hil.paths import PROJECT, SHIPPED

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
TREES = ("host/balance_hil", "firmware", "models", "hil_tests")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "platformio.ini")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in TREES:
        shutil.copytree(SHIPPED / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in FILES:
        shutil.copyfile(SHIPPED / name, folder / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder / "dist")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *options, str(folder)], check=True)
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of an environment that has the wheel and, from this one, all other packages; in an empty folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheel's own on the path
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PLATFORMIO", "HIL_"))}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], env=environment, check=True)
    empty = tmp_path_factory.mktemp("empty")

    def run(program: str, *arguments: str, cwd: Path = empty) -> subprocess.CompletedProcess[str]:
        command = [str(folder / "bin" / program), *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run


def test_no_file_of_the_package_is_left_out(wheel: Path) -> None:
    files = [path for path in (SHIPPED / "host/balance_hil").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert not {path.relative_to(SHIPPED / "host").as_posix() for path in files} - packed
    assert {"balance_hil/_data/platformio.ini", "balance_hil/_data/firmware/platform/platform.json"} <= packed


def test_it_is_the_wheel_that_runs(installed: Run) -> None:
    done = installed("python", "-c", "import balance_hil.paths as p; print(p.IS_CHECKOUT, p.SHIPPED, p.PROJECT)")
    checkout, shipped, project = done.stdout.split()
    assert checkout == "False"
    assert not Path(shipped).is_relative_to(SHIPPED)
    assert not Path(project).is_relative_to(PROJECT)


def test_it_builds_the_firmware_and_balances_the_robot(installed: Run) -> None:
    provide = "from balance_hil.firmware_build import PROJECT, build_lock\nwith build_lock(): print(PROJECT)"
    project = Path(installed("python", "-c", provide).stdout.strip())
    (PROJECT / ".pio/objects").mkdir(parents=True, exist_ok=True)
    (project / ".pio/objects").symlink_to(PROJECT / ".pio/objects")  # what this checkout has compiled of the same sources
    options = ["--board", "native", "--engine", "int8", "--seconds", "2", "--clock", "lockstep", "--json"]
    done = installed("hil", "run", "ppo", *options)
    assert done.returncode == 0, done.stderr
    assert "building the firmware" in done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["verdict"]["good"]


@pytest.mark.parametrize("imports", ["", "import balance_hil; "])
def test_the_environments_are_there_without_another_import(installed: Run, imports: str) -> None:
    program = "import gymnasium; env = gymnasium.make('balance_hil:balance/Balance-v0'); print(env.reset(seed=0)[0].shape)"
    done = installed("python", "-c", imports + program)
    assert done.stdout.strip() == "(6,)", done.stderr


def test_boards_and_policies_are_there(installed: Run) -> None:
    boards = json.loads(installed("hil", "boards", "--json").stdout)["boards"]
    assert {"native", "qemu-m4", "teensy41"} <= {board["name"] for board in boards}
    names = installed("python", "-c", "from balance_hil.bundle import bundle_names; print(*bundle_names())").stdout.split()
    assert {"ppo", "sac", "lqr"} <= set(names)


def test_the_hil_suite_comes_along(installed: Run) -> None:
    suite = ["-m", "pytest", "-q", "--pyargs", "balance_hil.hil_tests", "-k", "test_identity", "-p", "no:cacheprovider"]
    done = installed("python", *suite)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_project_of_ones_own_uses_the_fixtures(installed: Run, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nhil_engine = int8\nhil_bundle = sac\n")
    (tmp_path / "test_mine.py").write_text(
        "import numpy as np\n\n\n"
        "def test_my_policy(hil_board, hil_bundle, hil_measure):\n"
        "    reply = hil_board.infer(np.zeros(hil_bundle.spec.n_obs, np.float32))\n"
        "    assert hil_board.info.engine == 'int8' and hil_bundle.path.name == 'sac'\n"
        "    hil_measure('inference', reply.inference_us, 'us', maximum=1e6)\n"
    )
    done = installed("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_missing_extra_is_named_by_the_command_that_works_there(installed: Run) -> None:
    program = "from balance_hil.errors import require; require('no_such_package', 'train')"
    done = installed("python", "-c", f"try:\n    {program}\nexcept ImportError as exc:\n    print(exc.hint)")
    assert done.stdout.strip() == 'install it: pip install "balance-hil[train]"', done.stderr
