"""pytest plugin: ``--hil-*`` options and ``hil_*`` fixtures for tests that talk to a board.

Installed with balance_hil (entry point ``pytest11``). Every name carries the prefix, nothing happens in a test session that
uses none of them, and nothing heavy is imported before a fixture is asked for.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registers the ``--hil-*`` options."""
    group = parser.getgroup("hil", "hardware in the loop (balance_hil)")
    group.addoption(
        "--hil-board",
        action="append",
        metavar="NAME",
        help="board to test; repeat it or give a comma-separated list to run every test on each (default: native)",
    )
