"""Skips what needs a package that is not installed, without importing it: TensorFlow takes two seconds in each process."""

from importlib.util import find_spec

import pytest


def require_installed(*packages: str) -> None:
    """Skips the test, or while it is imported the module, unless all of the packages are there."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make setup", allow_module_level=True)
