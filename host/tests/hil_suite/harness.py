"""Runs tests of ``hil_tests`` against a board of ours, and looks at how they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from balance_hil import boards
from balance_hil.boards import Board
from balance_hil.bundle import Bundle

REPOSITORY = Path(__file__).parents[3]


class Suite:
    """Runs tests of ``hil_tests`` against a board of ours."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
        self._pytester = pytester
        self._bundle = bundle.path
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTEST_PLUGINS", "balance_hil.pytest_plugin")
        self._patch = monkeypatch

    def run(self, board: Board, *tests: str) -> pytest.RunResult:
        """Runs ``file.py::test`` names; the board stays open."""

        def connect(*args: object, **options: object) -> Board:
            return board

        self._patch.setattr(boards, "connect", connect)
        self._patch.setattr(board, "close", lambda: None)
        settings = [
            "-c",
            str(REPOSITORY / "pyproject.toml"),
            "-o",
            "addopts=",
            "--import-mode=importlib",
            "-p",
            "no:cacheprovider",
        ]
        selected = [f"{REPOSITORY / 'hil_tests'}/{test}" for test in tests]
        return self._pytester.runpytest(*settings, "--rootdir", str(REPOSITORY), f"--hil-bundle={self._bundle}", *selected)


def only_failure(result: pytest.RunResult, *patterns: str) -> None:
    """Exactly one test failed, and its message says so."""
    assert result.parseoutcomes().get("failed") == 1, result.parseoutcomes()
    assert "errors" not in result.parseoutcomes()
    for pattern in patterns:
        result.stdout.fnmatch_lines([pattern])
