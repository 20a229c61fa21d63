"""Runs the HIL suite against one broken board after the other, and scores whether it names what is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from balance_hil.boards import FAULTY_KINDS, find_board, held
from balance_hil.boards.bench import LABEL
from balance_hil.boards.farm import acquired, farm_kind
from balance_hil.bundle import Bundle
from balance_hil.documents import FaultDocument, VerifyDocument
from balance_hil.errors import UsageError, require
from balance_hil.interrupt import entered
from balance_hil.link.fault_table import NEEDS_EMULATION
from balance_hil.metrics import Verdict
from balance_hil.paths import HIL_TESTS
from balance_hil.processes import run_group
from balance_hil.verifying.faults import NONE, DeviceFault

EPISODES = ("--hil-episodes=1", "--hil-seconds=0.5")  # the shortest that still judge
CONTROL_TIMEOUT_S = 1800.0
FAULT_TIMEOUT_S = 300.0
_ISOLATED = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": "", "HIL_HISTORY": "off"}
_LAST_CHARACTERS = 300

Score = Literal["caught", "wrong reason", "missed", "skipped"]
Progress = Callable[[str, int, int], None]  # what runs, done, of how many


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """The board, as ``connect`` takes it."""

    board: str = "native"
    port: str | None = None
    baud: int | None = None
    engine: str | None = None
    wait_s: float = 0.0


@dataclass(frozen=True)
class Case:
    """How one test of the suite ended; a test with several parameters has several cases."""

    test: str  # "file.py::test"
    outcome: Literal["passed", "failed", "skipped"]
    message: str = ""


@dataclass(frozen=True)
class FaultResult:
    """What the suite said about one fault."""

    fault: DeviceFault
    score: Score
    message: str  # of the failure; why it was skipped
    wall_s: float = 0.0

    def to_dict(self) -> FaultDocument:
        """Plain JSON types."""
        fault = self.fault
        return {
            "name": fault.name,
            "group": fault.group,
            "what": fault.what,
            "test": fault.test,
            "because": fault.because,
            "score": self.score,
            "message": self.message,
            "wall_s": round(self.wall_s, 3),
        }


@dataclass
class VerifyResult:
    """The control run, and one result for each fault. Nothing is scored unless the control run passed."""

    bundle: Bundle
    board: str
    control: Sequence[Case] = ()
    faults: list[FaultResult] = field(default_factory=list)
    interrupted: bool = False

    def count(self, score: Score) -> int:
        """Number of faults with this score."""
        return sum(result.score == score for result in self.faults)

    @property
    def verdict(self) -> Verdict:
        """Good: without a fault the suite passes, and every fault that is one here was caught for the right reason."""
        broken = [f"without a fault {case.test} fails: {_first_line(case.message)}" for case in self.control if _failed(case)]
        bad = [f"{result.fault.name}: {result.score}" for result in self.faults if result.score in ("missed", "wrong reason")]
        nothing = [] if broken or self.count("caught") or bad else ["no fault was tried"]
        return Verdict((*broken, *bad, *nothing, *(["interrupted"] if self.interrupted else [])))

    def to_dict(self) -> VerifyDocument:
        """The document of ``hil verify --json``."""
        bundle = self.bundle
        return {
            "schema": "balance_hil/verify@2",
            "bundle": {"name": bundle.path.name, "id": bundle.id, "path": str(bundle.path)},
            "board": self.board,
            "control": {
                "passed": bool(self.control) and not any(map(_failed, self.control)),
                "cases": len(self.control),
                "failures": [f"{case.test}: {case.message}" for case in self.control if _failed(case)],
            },
            "faults": [result.to_dict() for result in self.faults],
            "caught": self.count("caught"),
            "wrong_reason": self.count("wrong reason"),
            "missed": self.count("missed"),
            "skipped": self.count("skipped"),
            "interrupted": self.interrupted,
            "verdict": self.verdict.to_dict(),
        }


def verify(bundle: Bundle, config: VerifyConfig, faults: Sequence[DeviceFault], on_progress: Progress) -> VerifyResult:
    """Runs the tests that ``faults`` name on a sound board, then the test of each fault on a board that has it.

    Ctrl-C ends it; the result holds what was done. A board of a farm is held from the first test to the last.

    Raises:
        MissingExtraError: pytest or TensorFlow Lite Micro is not installed.
        UnknownBoardError: no such board or label.
        PortBusyError: no board of the label is free, or somebody else holds the place of the farm.
        UsageError: a port beside a label or a place, which has its own.
        FarmError and what else the kind of a farm raises.
    """
    require("pytest", "dev")
    if farm_kind(config.board):
        if config.port is not None:
            raise UsageError(f"{config.board} has its port from the farm", "leave out --port")
        with acquired(config.board, config.wait_s) as lent:
            own = replace(config, board=lent.kind, port=lent.port, baud=config.baud or lent.baud or None)
            return _verify(VerifyResult(bundle, config.board), own, faults, on_progress)
    with held(config.board, config.wait_s, port=config.port) if config.board.startswith(LABEL) else nullcontext() as place:
        if place:  # chosen once; each run of the suite reserves it again
            config = replace(config, board=place.definition.name)
    return _verify(VerifyResult(bundle, config.board), config, faults, on_progress)


def _verify(
    result: VerifyResult, config: VerifyConfig, faults: Sequence[DeviceFault], on_progress: Progress
) -> VerifyResult:  # fmt: skip
    bundle = result.bundle
    absent = {fault.name: why for fault in faults if (why := _why_not(fault, bundle, config))}
    tried = [fault for fault in faults if fault.name not in absent]
    try:
        on_progress("control run", 0, len(faults))
        if tried:
            tests = sorted({fault.test for fault in tried})
            result.control = run_suite(bundle, config, tests, fault=NONE.name, timeout_s=CONTROL_TIMEOUT_S)
        if any(map(_failed, result.control)):
            return result
        for done, fault in enumerate(faults):
            on_progress(fault.name, done, len(faults))
            result.faults.append(
                FaultResult(fault, "skipped", absent[fault.name])
                if fault.name in absent
                else _try(fault, bundle, config, [case for case in result.control if case.test == fault.test])
            )
    except KeyboardInterrupt:
        result.interrupted = True
    return result


def _why_not(fault: DeviceFault, bundle: Bundle, config: VerifyConfig) -> str:
    """Why the fault is none here; "" if it is one."""
    definition = find_board(config.board)
    if fault.in_firmware and (config.port is not None or not definition.is_emulated or definition.kind not in FAULTY_KINDS):
        return "this board's firmware cannot be built with it: native and qemu boards can"
    if fault.link.partition(":")[0] in NEEDS_EMULATION and (config.port is not None or not definition.is_emulated):
        return "this program has neither power nor memory of the board: of an emulated one it has"
    if fault.test.startswith("test_episodes.py") and not bundle.spec.environment:
        return "the policy names no environment"
    return fault.absent(bundle)


def _try(fault: DeviceFault, bundle: Bundle, config: VerifyConfig, control: Sequence[Case]) -> FaultResult:
    if all(case.outcome == "skipped" for case in control):
        return FaultResult(fault, "skipped", control[0].message)
    start = time.monotonic()
    cases = run_suite(bundle, config, [fault.test], fault=fault.name, timeout_s=FAULT_TIMEOUT_S)
    return FaultResult(fault, *score(fault, cases), time.monotonic() - start)


def score(fault: DeviceFault, cases: Sequence[Case]) -> tuple[Score, str]:
    """The score of a fault, and the message that decided it."""
    failed = [case for case in cases if _failed(case)]
    for case in failed:
        if case.test == fault.test and re.search(fault.because, case.message, re.DOTALL):
            return "caught", case.message
    if failed:
        return "wrong reason", f"{failed[0].test}: {failed[0].message}"
    return "missed", ""


def run_suite(bundle: Bundle, config: VerifyConfig, tests: Sequence[str], *, fault: str, timeout_s: float) -> list[Case]:
    """Runs tests of the HIL suite, "file.py::test" each, in a process of its own.

    A suite that does not end in time, or that pytest cannot run, is one failed case.
    """
    with entered(lambda: tempfile.TemporaryDirectory(prefix="balance-hil-")) as folder:
        report, settings = Path(folder) / "report.xml", Path(folder) / "pytest.ini"
        settings.write_text("[pytest]\nmarkers = timeout: of pytest-timeout\n")
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(settings), "--rootdir", str(HIL_TESTS)]
        command += ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "balance_hil.pytest_plugin"]
        command += [f"--junitxml={report}", f"--basetemp={folder}/logs", *EPISODES, f"--hil-bundle={bundle.path.resolve()}"]
        options = {"board": config.board, "port": config.port, "baud": config.baud, "engine": config.engine, "broken": fault}
        command += [f"--hil-{name}={value}" for name, value in options.items() if value is not None]
        command += [f"--hil-wait={config.wait_s}", *(f"{HIL_TESTS}/{test}" for test in tests)]
        try:
            done = run_group(command, timeout_s=timeout_s, env=os.environ | _ISOLATED, stderr=subprocess.STDOUT, text=True)
        except subprocess.TimeoutExpired:
            return [Case("the suite", "failed", f"it did not end within {timeout_s:g} s")]
        if not report.exists():
            return [Case("the suite", "failed", f"pytest ended with status {done.returncode}: {done.stdout[-_LAST_CHARACTERS:]}")]
        return read_report(report)


def read_report(path: Path) -> list[Case]:
    """The cases in a JUnit file of pytest."""
    cases = []
    for element in ET.parse(path).iter("testcase"):  # noqa: S314  # pytest wrote it
        test = f"{element.get('classname', '').split('.')[-1]}.py::{element.get('name', '').split('[')[0]}"
        outcome: Literal["passed", "failed", "skipped"] = "passed"
        message = ""
        for child in element:
            if child.tag in ("failure", "error", "skipped") and outcome != "failed":
                outcome = "skipped" if child.tag == "skipped" else "failed"
                message = child.get("message", "")
        cases.append(Case(test, outcome, message))
    return cases


def _failed(case: Case) -> bool:
    return case.outcome == "failed"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
