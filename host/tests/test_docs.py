"""The documentation: the site builds without a broken link, and the tutorial's commands work as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from balance_hil.paths import IS_CHECKOUT, SHIPPED

pytestmark = pytest.mark.skipif(not IS_CHECKOUT, reason="the documentation is in the repository: clone it")


def blocks() -> list[str]:
    """The shell blocks of the tutorial that need no board on a desk."""
    return re.findall(r"^```bash\n(.*?)^```", (SHIPPED / "docs" / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)


def shell(commands: str, folder: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (folder / "hil_tests").exists() or (folder / "hil_tests").symlink_to(SHIPPED / "hil_tests")
    environment = os.environ | {"PATH": programs, "PYTHONPATH": f"{SHIPPED / 'host'}{os.pathsep}{folder}"}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_site_builds_without_a_broken_link():
    done = subprocess.run([sys.executable, SHIPPED / "docs" / "build_site.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index", "tutorial", "command-reference", "board-files"):
        assert (SHIPPED / "build" / "site" / f"{page}.html").is_file()


def test_a_run_and_a_report_of_the_tutorial(tmp_path: Path):
    _, looking, *_ = blocks()
    shell(looking.replace("--seconds 5", "--seconds 1"), tmp_path)
    assert (tmp_path / "first.html").stat().st_size > 10_000


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_whole_tutorial(tmp_path: Path):
    for block in blocks():
        shell(block, tmp_path)
