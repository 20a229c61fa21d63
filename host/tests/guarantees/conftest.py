"""Number of faults that each guarantee injects: a slice in the normal run, the whole with ``make guarantees``."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=300, metavar="N", help="faults of each kind that the guarantees inject")


@pytest.fixture(scope="session")
def faults(pytestconfig):
    """How many faults to inject. Without this folder on the command line the option is not registered: the default then."""
    return pytestconfig.getoption("faults", 300)


def pytest_terminal_summary(terminalreporter):
    """What was injected and measured, as each test noted it by ``record_property("figures", ...)``."""
    for report in terminalreporter.getreports("passed"):
        for value in (value for name, value in report.user_properties if name == "figures"):
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")
