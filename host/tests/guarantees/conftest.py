"""Number of faults that each guarantee injects: a slice in the normal run, the whole with ``make guarantees``."""

from pathlib import Path

import pytest

GUARANTEES = {  # by module
    "test_actions": "0 wrong actions applied",
    "test_waits": "no wait longer than its bound plus 50 ms",
    "test_recovery": "back in step within 2 periods of a transient fault, 1 s of a reboot",
    "test_recordings": "a recording is readable to the last flushed half second",
    "test_signals": "a signal ends any command in 1 s, and nothing is left",
    "test_parsers": "every parser: no foreign error, no crash, at most 256 MiB and 5 s",
}


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=100, metavar="N", help="faults of each kind that the guarantees inject")


@pytest.fixture(scope="session")
def faults(pytestconfig):
    """How many faults to inject. Without this folder on the command line the option is not registered: the default then."""
    return pytestconfig.getoption("faults", 100)


@pytest.fixture
def tell(record_property):
    """Notes how many faults were injected and what was measured."""

    def tell(count, figures):
        record_property("injected", count)
        record_property("figures", f"{count} {figures}")

    return tell


def pytest_terminal_summary(terminalreporter):
    """What each test measured, and a line for each guarantee."""
    reports = {outcome: terminalreporter.getreports(outcome) for outcome in ("passed", "failed", "error", "skipped")}
    for report in reports["passed"]:
        for figures in _noted(report, "figures"):
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {figures}")
    terminalreporter.section("guarantees")
    for module, guarantee in GUARANTEES.items():
        of = {outcome: [each for each in found if Path(each.fspath).stem == module] for outcome, found in reports.items()}
        injected = sum(count for report in of["passed"] + of["failed"] for count in _noted(report, "injected"))
        broken = len(of["failed"] + of["error"])
        verdict = "FAIL" if broken else "PASS" if of["passed"] else "NOT TESTED"
        missing = "".join(f", {len(of[outcome])} {outcome}" for outcome in ("failed", "error", "skipped") if of[outcome])
        if tests := sum(map(len, of.values())):
            terminalreporter.write_line(f"{verdict:10}  {guarantee}: {injected:,} faults in {tests} tests{missing}")


def _noted(report, name):
    return [value for noted, value in report.user_properties if noted == name]
