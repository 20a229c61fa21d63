"""The HIL suite in a process of its own, and the JUnit file that it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from balance_hil.interrupt import entered
from balance_hil.paths import HIL_TESTS
from balance_hil.processes import run_group

_ISOLATED = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": ""}
_LAST_CHARACTERS = 300
THE_SUITE = "the suite"


@dataclass(frozen=True)
class Case:
    """How one test of the suite ended; a test with several parameters has several cases."""

    test: str  # "file.py::test"
    outcome: Literal["passed", "failed", "skipped"]
    message: str = ""


def run_suite(
    options: Mapping[str, Any], *, tests: Sequence[str] = (), arguments: Sequence[str] = (), timeout_s: float | None = None
) -> str:
    """Runs the suite and returns pytest's JUnit file.

    A suite that does not end in time, or that pytest cannot run, is one failed case.

    Args:
        options: of the plugin, by their names without ``--hil-``; None is left out.
        tests: "file.py::test" each; none: all of them.
        arguments: more of pytest's.
        timeout_s: for all tests together.
    """
    with entered(lambda: tempfile.TemporaryDirectory(prefix="balance-hil-")) as folder:
        report, settings = Path(folder) / "report.xml", Path(folder) / "pytest.ini"
        settings.write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(settings), "--rootdir", str(HIL_TESTS)]
        command += ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "balance_hil.pytest_plugin"]
        command += [f"--junitxml={report}", f"--basetemp={folder}/logs"]
        command += [f"--hil-{name}={value}" for name, value in options.items() if value is not None]
        command += [*(f"{HIL_TESTS}/{test}" for test in tests or ("",)), *arguments]
        try:
            done = run_group(command, timeout_s=timeout_s, env=os.environ | _ISOLATED, stderr=subprocess.STDOUT, text=True)
        except subprocess.TimeoutExpired:
            return _failure(f"it did not end within {timeout_s:g} s")
        if not report.exists():
            return _failure(f"pytest ended with status {done.returncode}: {done.stdout[-_LAST_CHARACTERS:]}")
        return report.read_text()


def _failure(message: str) -> str:
    suite = ET.Element("testsuite", name="pytest", tests="1", failures="1", errors="0", skipped="0")
    ET.SubElement(ET.SubElement(suite, "testcase", classname="", name=THE_SUITE), "failure", message=message)
    return ET.tostring(suite, encoding="unicode")


def read_report(report: str) -> list[Case]:
    """The cases in a JUnit file of pytest."""
    cases = []
    for element in ET.fromstring(report).iter("testcase"):  # noqa: S314  # pytest wrote it
        name = element.get("name", "").split("[")[0]
        test = name if name == THE_SUITE else f"{element.get('classname', '').split('.')[-1]}.py::{name}"
        outcome: Literal["passed", "failed", "skipped"] = "passed"
        message = ""
        for child in element:
            if child.tag in ("failure", "error", "skipped") and outcome != "failed":
                outcome = "skipped" if child.tag == "skipped" else "failed"
                message = child.get("message", "")
        cases.append(Case(test, outcome, message))
    return cases
