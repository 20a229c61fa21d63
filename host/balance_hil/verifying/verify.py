"""Runs the HIL suite against one broken board after the other, and scores whether it names what is broken."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any, Literal

from balance_hil.boards import FAULTY_KINDS, find_board, held
from balance_hil.boards.bench import LABEL, starts_here
from balance_hil.boards.farm import acquired, farm_kind
from balance_hil.bundle import Bundle
from balance_hil.documents import FaultDocument, VerifyDocument
from balance_hil.errors import UsageError, require
from balance_hil.farm.campaign import HERE, Campaign, Task
from balance_hil.firmware_build import firmware_commit
from balance_hil.link.fault_table import NEEDS_EMULATION
from balance_hil.metrics import Verdict
from balance_hil.quantize import INT8
from balance_hil.verifying.faults import NONE, DeviceFault
from balance_hil.verifying.suite import Case, read_report, run_suite

_SHORTEST = {"episodes": 1, "seconds": 0.5}  # that still judge
CONTROL_TIMEOUT_S = 1800.0
FAULT_TIMEOUT_S = 300.0

Score = Literal["caught", "wrong reason", "missed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """The board, as ``connect`` takes it."""

    board: str = "native"
    port: str | None = None
    baud: int | None = None
    engine: str | None = None
    wait_s: float = 0.0


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


def verify(
    bundle: Bundle,
    config: VerifyConfig,
    faults: Sequence[DeviceFault],
    on_progress: Callable[[float, str], None] = lambda done, what: None,
    campaign: Campaign = HERE,
) -> VerifyResult:
    """Runs the tests that ``faults`` name on a sound board, then the test of each fault on a board that has it.

    Each of these is a task of the campaign; a physical board has them one after the other, and one of a farm is held from the
    first to the last. ``on_progress`` gets the completed share, 0..1, and the last result. Ctrl-C ends it; the result holds
    what was done.

    Raises:
        MissingExtraError: pytest or TensorFlow Lite Micro is not installed.
        UnknownBoardError: no such board or label.
        PortBusyError: no board of the label is free, or somebody else holds the place of the farm.
        UsageError: a port beside a label or a place, which has its own; or a physical board, and a cluster; or a bundle that
            is not int8.
        FarmError and what else the kind of a farm raises.
        ClusterError: see ``Campaign.run``.
    """
    if bundle.kind != INT8:
        raise UsageError(
            f"the faults that the suite must find are those of int8 models; this bundle is {bundle.kind.name}",
            "use an int8 bundle: hil export --quantize int8",
        )
    require("pytest", "dev")
    if not starts_here(config.board, config.port):
        campaign = campaign.of_one_at_a_time(config.board)
    if farm_kind(config.board):
        if config.port is not None:
            raise UsageError(f"{config.board} has its port from the farm", "leave out --port")
        with acquired(config.board, config.wait_s) as lent:
            own = replace(config, board=lent.kind, port=lent.port, baud=config.baud or lent.baud or None)
            return _verify(VerifyResult(bundle, config.board), own, faults, on_progress, campaign)
    with held(config.board, config.wait_s, port=config.port) if config.board.startswith(LABEL) else nullcontext() as place:
        if place:  # chosen once; each run of the suite reserves it again
            config = replace(config, board=place.definition.name)
    return _verify(VerifyResult(bundle, config.board), config, faults, on_progress, campaign)


def _verify(
    result: VerifyResult,
    config: VerifyConfig,
    faults: Sequence[DeviceFault],
    on_progress: Callable[[float, str], None],
    campaign: Campaign,
) -> VerifyResult:
    bundle = result.bundle
    absent = {fault.name: why for fault in faults if (why := _why_not(fault, bundle, config))}
    found: dict[int, FaultResult] = {}
    try:
        if tests := sorted({fault.test for fault in faults if fault.name not in absent}):
            on_progress(0.0, "control run")
            task = _task(NONE.name, NONE, tests, bundle, config)
            result.control = [Case(*case) for _, done in replace(campaign, jobs=1).run(_run, [task]) for case in done["cases"]]
        if any(map(_failed, result.control)):
            return result
        tasks: dict[str, tuple[Task, list[int]]] = {}  # by their names, with the places of the faults that they try
        for at, fault in enumerate(faults):
            why = absent.get(fault.name) or _skipped(case for case in result.control if case.test == fault.test)
            if why:
                found[at] = FaultResult(fault, "skipped", why)
            else:
                task = _task(f"{fault.name}: {fault.test}", fault, [fault.test], bundle, config)
                tasks.setdefault(task.name, (task, []))[1].append(at)
        for task, done in campaign.run(_run, [task for task, _ in tasks.values()]):
            for at in tasks[task.name][1]:
                cases = [Case(*case) for case in done["cases"]]
                found[at] = FaultResult(faults[at], *score(faults[at], cases), done["wall_s"])
                on_progress(len(found) / len(faults), f"{faults[at].name}: {found[at].score}")
    except KeyboardInterrupt:
        result.interrupted = True
    finally:
        result.faults = [each for _, each in sorted(found.items())]
    return result


def _task(name: str, fault: DeviceFault, tests: list[str], bundle: Bundle, config: VerifyConfig) -> Task:
    options = {**asdict(config), "bundle": bundle.path.resolve(), "broken": fault.name, **_SHORTEST, "history": "off"}
    options["wait"] = options.pop("wait_s")
    timeout_s = CONTROL_TIMEOUT_S if fault is NONE else FAULT_TIMEOUT_S
    depends_on = {**asdict(config), "policy": bundle.id, "firmware": firmware_commit(), "tests": tests}
    return Task(name, (tuple(tests), options, timeout_s), depends_on)


def _run(tests: Sequence[str], options: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Runs in a worker process."""
    start_s = time.monotonic()
    cases = read_report(run_suite(options, tests=tests, timeout_s=timeout_s))
    return {"cases": [astuple(case) for case in cases], "wall_s": round(time.monotonic() - start_s, 3)}


def _skipped(control: Iterable[Case]) -> str:
    """Why every case of a test was skipped without a fault; "" if one was not."""
    cases = list(control)
    return cases[0].message if all(case.outcome == "skipped" for case in cases) else ""


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


def score(fault: DeviceFault, cases: Sequence[Case]) -> tuple[Score, str]:
    """The score of a fault, and the message that decided it."""
    failed = [case for case in cases if _failed(case)]
    for case in failed:
        if case.test == fault.test and re.search(fault.because, case.message, re.DOTALL):
            return "caught", case.message
    if failed:
        return "wrong reason", f"{failed[0].test}: {failed[0].message}"
    return "missed", ""


def _failed(case: Case) -> bool:
    return case.outcome == "failed"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
