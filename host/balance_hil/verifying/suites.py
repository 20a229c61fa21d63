"""The HIL suite of several policies on several boards: each pair is a task of a campaign."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance_hil.boards.bench import starts_here
from balance_hil.bundle import Bundle
from balance_hil.errors import UsageError, require
from balance_hil.farm.campaign import HERE, Campaign, Task
from balance_hil.firmware_build import firmware_commit
from balance_hil.metrics import Verdict
from balance_hil.verifying.suite import Case, read_report, run_suite

TIMEOUT_S = 4 * 3600.0
_DAY_S = 86400.0


@dataclass(frozen=True)
class SuiteResult:
    """What the suite said about one policy on one board."""

    bundle: str  # its name
    board: str
    report: str  # pytest's JUnit file

    @property
    def cases(self) -> list[Case]:
        """Its tests."""
        return read_report(self.report)

    def count(self, outcome: str) -> int:
        """Number of tests that ended so."""
        return sum(case.outcome == outcome for case in self.cases)

    @property
    def verdict(self) -> Verdict:
        """Good: tests ran, and none failed."""
        failed = [f"{self.bundle} on {self.board}: {case.test} failed" for case in self.cases if case.outcome == "failed"]
        return Verdict(tuple(failed) if failed or self.count("passed") else (f"{self.bundle} on {self.board}: no test ran",))


def run_suites(
    policies: Sequence[Path],
    boards: Sequence[str],
    arguments: Sequence[str] = (),
    wait_s: float = 0.0,
    on_progress: Callable[[float, str], None] = lambda done, what: None,
    campaign: Campaign = HERE,
) -> list[SuiteResult]:
    """Runs the suite for each policy on each board; the results are in this order, board by board for each policy.

    Args:
        policies: bundles with different names.
        boards: emulated ones run as often at a time as the campaign wants, a physical one once.
        arguments: more of pytest's.
        wait_s: for a physical board that another program holds.
        on_progress: gets the completed share, 0..1, and the last result.
        campaign: where they run.

    Raises:
        MissingExtraError: pytest is not installed.
        BundleError, UnknownBoardError: no such policy or board.
        UsageError: two policies have one name, or a physical board and a cluster.
        ClusterError: see ``Campaign.run``.
    """
    require("pytest", "dev")
    bundles = [Bundle.load(policy) for policy in policies]
    if len({bundle.path.resolve().name for bundle in bundles}) < len(bundles):
        raise UsageError("two policies have the same name", "name every policy once")
    physical = [board for board in boards if not starts_here(board)]
    if physical and campaign.cluster is not None:
        raise UsageError(f"{physical[0]} is at this computer, not on the cluster", "leave out --cluster, or take emulated boards")
    tasks = {}
    for bundle in bundles:
        for board in boards:
            name = bundle.path.resolve().name
            # The others that are tested on a physical board are waited for.
            wait = max(wait_s, _DAY_S) if board in physical and len(bundles) > 1 else wait_s
            options = {"bundle": str(bundle.path.resolve()), "board": board, "wait": wait}
            depends_on = {"policy": bundle.id, "firmware": firmware_commit(), "arguments of pytest": list(arguments)}
            tasks[name, board] = Task(f"{name} on {board}", (options, tuple(arguments)), depends_on)
    found: dict[str, SuiteResult] = {}
    pairs = {task.name: pair for pair, task in tasks.items()}
    for task, report in campaign.run(_run, list(tasks.values())):
        result = found[task.name] = SuiteResult(*pairs[task.name], report)
        counts = ", ".join(f"{count} {what}" for what in ("passed", "failed", "skipped") if (count := result.count(what)))
        on_progress(len(found) / len(tasks), f"{task.name}: {counts}")
    return [found[task.name] for task in tasks.values()]


def _run(options: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """Runs in a worker process."""
    return run_suite(options, arguments=arguments, timeout_s=TIMEOUT_S)


def merged(results: Sequence[SuiteResult]) -> str:
    """One JUnit file of all of them; each is a test suite, by the names of policy and board."""
    root = ET.Element("testsuites")
    for result in results:
        for suite in ET.fromstring(result.report).iter("testsuite"):  # noqa: S314  # pytest wrote it
            suite.set("name", f"{result.bundle} on {result.board}")
            root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
