import time

import pytest

from balance_hil import core_queue
from balance_hil.scheduling import ProcessorWait
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info, linear_policy

GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]


@pytest.fixture
def firmware(linear_bundle):
    return FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle))


@pytest.fixture
def board(firmware, linear_bundle):
    with fake_board(firmware, linear_bundle) as board:
        yield board


class VirtualClock:
    """Time that passes only when somebody waits for it."""

    def __init__(self):
        self.now_s = 1000.0

    def now(self):
        return self.now_s

    def sleep(self, duration_s):
        self.now_s += duration_s


@pytest.fixture
def clock(monkeypatch, tmp_path):
    virtual = VirtualClock()
    monkeypatch.setattr(core_queue, "FOLDER", tmp_path / "queue")  # nobody else waits in this time
    monkeypatch.setattr(time, "perf_counter", virtual.now)
    monkeypatch.setattr(time, "monotonic", virtual.now)
    monkeypatch.setattr(time, "sleep", virtual.sleep)
    monkeypatch.setattr(ProcessorWait, "total_us", lambda wait: 0.0)  # of the real clock
    return virtual
