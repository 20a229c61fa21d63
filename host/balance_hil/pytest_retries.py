"""``--hil-retries N``: a failed test of a board is repeated, and one that passes then is counted as flaky.

Its own hook, because pytest-rerunfailures leaves no trace of a repetition in JUnit, and because what repeats a test here also
gives each attempt a log directory of its own.
"""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from _pytest.terminal import TerminalReporter

attempt_key = pytest.StashKey[int]()
FLAKY = "hil_flaky"  # property of a test in JUnit
_LONGEST = 200


class Retries:
    """The hooks. A test is repeated with the set-up of its function's fixtures."""

    def __init__(self, most: int) -> None:
        self._most = most

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Runs a test of a board until it passes, at most ``most`` times more; reports the last attempt."""
        if "hil_board_name" not in getattr(item, "fixturenames", ()):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        of_its_own = len(item.user_properties)
        failures: list[str] = []
        failed: list[pytest.TestReport] = []
        for attempt in range(1, self._most + 2):
            item.stash[attempt_key] = attempt
            del item.user_properties[of_its_own:]
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if not any(report.failed for report in reports):
                break
            failed = reports
            failures.append(_first_line(next(report for report in reports if report.failed)))
            if item.session.shouldstop or item.session.shouldfail:
                break
        if failed and not all(report.passed for report in reports):
            reports = failed  # also if the last attempt was skipped: that hides no failure
        elif failures:
            said = f"{len(failures)} of {len(failures) + 1} attempts failed: {failures[0]}"
            for report in reports:
                report.user_properties.append((FLAKY, said))
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, Any] | None:
        """A flaky test has a status of its own, so that the last line of the session counts it."""
        if getattr(report, "when", "") == "call" and report.passed and _why_flaky(report):
            return "flaky", "R", ("FLAKY", {"yellow": True})
        return None

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Names the flaky tests."""
        flaky = terminalreporter.stats.get("flaky", [])
        if flaky:
            terminalreporter.section(f"{len(flaky)} flaky: passed only when repeated", yellow=True)
        for report in flaky:
            terminalreporter.write_line(f"{report.nodeid}: {_why_flaky(report)}")


def _why_flaky(report: pytest.TestReport) -> str:
    return next((str(value) for name, value in report.user_properties if name == FLAKY), "")


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longreprtext).strip().partition("\n")[0][:_LONGEST]
