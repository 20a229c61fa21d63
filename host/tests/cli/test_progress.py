"""Progress of a campaign where stderr is not a terminal, as in CI."""

import io
import time

import pytest
from rich.console import Console

from balance_hil.cli import progress


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_campaign_prints_lines_where_there_is_no_terminal(monkeypatch, is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    monkeypatch.setattr(progress, "stderr", console)
    monkeypatch.setattr(progress, "say", console.print)
    now_s = time.monotonic()
    with progress.CampaignBar() as bar:
        for done in range(1, 8):
            monkeypatch.setattr(time, "monotonic", lambda now_s=now_s + 4.0 * done: now_s)
            bar(done / 10, f"{done} of 10 trials")
    lines = [line.split(":")[-1] for line in console.file.getvalue().splitlines() if line[:1].isdigit()]
    assert lines == ([] if is_terminal else [" 3 of 10 trials", " 6 of 10 trials"])


def test_the_time_left_counts_tasks_of_minutes():
    now_s = 0.0
    with progress.CampaignBar() as bar:
        bar.get_time = bar.tasks[0]._get_time = lambda: now_s
        for done in (1, 2, 3):
            now_s += 120.0
            bar(done / 10, "")
        assert bar.tasks[0].time_remaining == pytest.approx(7 * 120.0, abs=1)
