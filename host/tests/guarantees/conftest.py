"""Number of faults that each guarantee injects: a slice in the normal run, the whole with ``make guarantees``."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=300, metavar="N", help="faults of each kind that the guarantees inject")


@pytest.fixture(scope="session")
def faults(pytestconfig):
    """How many faults to inject. Without this folder on the command line the option is not registered: the default then."""
    return pytestconfig.getoption("faults", 300)
