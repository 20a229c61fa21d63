"""Locations of the package's files and of the user's folders.

A checkout has firmware, policies and HIL suite beside ``host/``; a wheel carries copies of them in the package (setup.py).
"""

from __future__ import annotations

from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent
_DATA = _PACKAGE / "_data"
IS_CHECKOUT = not _DATA.is_dir()
SHIPPED = _PACKAGE.parents[1] if IS_CHECKOUT else _DATA
MODELS = SHIPPED / "models"  # the shipped policies, one folder each
HIL_TESTS = SHIPPED / "hil_tests" if IS_CHECKOUT else _PACKAGE / "hil_tests"
POLICIES = Path("policies")  # the user's own, in the current folder
CACHE = platformdirs.user_cache_path("balance_hil")
EMULATORS = SHIPPED / ".venv/emulators" if IS_CHECKOUT else CACHE / "emulators"  # npm packages
LABGRID = (SHIPPED / ".venv" if IS_CHECKOUT else CACHE) / "labgrid"  # labgrid's own virtual environment
CONFIG = platformdirs.user_config_path("balance_hil")
# Of a wheel's firmware sources: their hash, and the last commit that touched them (the hash again, where it was built without
# git). A checkout asks git.
SOURCES_HASH, SOURCES_COMMIT = ("", "") if IS_CHECKOUT else (_DATA / "firmware_id").read_text().split()
# PlatformIO's project folder. It must be writable, so a wheel's sources are copied there before the first build.
PROJECT = SHIPPED if IS_CHECKOUT else CACHE / f"firmware-{SOURCES_HASH}"


def install_command(extra: str = "") -> str:
    """The command that installs balance_hil with an extra, here: a checkout has one command for all of them."""
    if IS_CHECKOUT:
        return "make setup"
    return f'pip install "balance-hil[{extra}]"' if extra else "pip install balance-hil"
