"""A row of the results database for each board and bundle that a pytest session tested."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from balance_hil.pytest_retries import FLAKY

IDENTITY = ("hil_board", "hil_engine", "hil_firmware_commit", "hil_bundle", "hil_report", FLAKY)


@dataclass
class _Suite:
    """What the tests of one board and bundle came to."""

    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    flaky: list[str] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)


class History:
    """The hooks, of the process that gathers the reports."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._suites: dict[tuple[str, str], _Suite] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts the reports of tests of a board; see ``pytest_plugin.pytest_runtest_makereport``."""
        key = getattr(report, "hil_suite", None)
        if key is None:
            return
        suite = self._suites.setdefault((key[0], key[1]), _Suite())
        properties = {name: str(value) for name, value in report.user_properties}
        if report.failed:
            suite.failed.append(report.nodeid)
        elif report.when == "call":
            suite.passed += report.passed
            if FLAKY in properties:
                suite.flaky.append(report.nodeid)
        suite.skipped += report.skipped
        suite.properties |= properties

    def pytest_sessionfinish(self) -> None:
        """Adds the rows."""
        from balance_hil.history import Result, append

        for (board, bundle), suite in self._suites.items():
            numbers = measurements(suite.properties)
            failed = list(dict.fromkeys(suite.failed))
            counts = {"passed": suite.passed, "failed": len(failed), "skipped": suite.skipped, "flaky": len(suite.flaky)}
            append(
                Result(
                    command="pytest",
                    bundle=bundle,
                    bundle_id=suite.properties.get("hil_bundle", ""),
                    board=board,
                    engine=suite.properties.get("hil_engine", ""),
                    firmware=suite.properties.get("hil_firmware_commit", ""),
                    good=not failed,
                    reasons=[f"{nodeid} failed" for nodeid in failed],
                    metrics={name: value for name, value in numbers.items() if not name.startswith("round_trip")} | counts,
                    timing={name: value for name, value in numbers.items() if name.startswith("round_trip")},
                    flaky=suite.flaky,
                ),
                self._path,
            )


def measurements(properties: dict[str, str]) -> dict[str, float]:
    """Values that ``hil_measure`` recorded, by name and unit: "250 us [..2000] us pass" is {"..._us": 250.0}."""
    found = {}
    for name, text in properties.items():
        value = re.match(r"(-?[\d.]+(?:e[+-]?\d+)?) (\S+)", text)
        if value and name.startswith("hil_") and name not in IDENTITY:
            unit = "" if value[2] == "1" else "_" + re.sub(r"\W+", "_", value[2])
            found[name.removeprefix("hil_") + unit] = float(value[1])
    return found
