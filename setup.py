"""Packs what lies outside the package into the wheel: firmware sources, policies, HIL suite. See balance_hil/paths.py."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FIRMWARE = ("firmware/lib", "firmware/src", "firmware/platform", "platformio.ini")


class BuildPy(build_py):
    """Copies the trees, except for an editable installation, which finds them in the checkout."""

    def run(self):
        """See setuptools."""
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "balance_hil")
        copy("hil_tests", package / "hil_tests")
        (package / "hil_tests/__init__.py").write_text('"""The HIL suite: pytest --pyargs balance_hil.hil_tests."""\n')
        shutil.rmtree(package / "_data", ignore_errors=True)  # of an earlier build
        for name in (*FIRMWARE, "models"):
            copy(name, package / "_data" / name)
        identity = sources_hash(package / "_data")
        (package / "_data/firmware_id").write_text(f"{identity} {commit() or identity}\n")


def copy(source, target):
    """Copies a file or a folder, without what Python leaves there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def sources_hash(folder):
    """12 hex digits that change with any source of the firmware."""
    digest = hashlib.sha256()
    for name in FIRMWARE:
        for path in sorted(p for p in (folder / name, *(folder / name).rglob("*")) if p.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def commit():
    """The last one that touched the firmware, 12 hex digits; empty in a source distribution."""
    git = subprocess.run(
        ["git", "log", "-1", "--format=%H", "--", *FIRMWARE],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return git.stdout.strip()[:12]


setup(cmdclass={"build_py": BuildPy})
