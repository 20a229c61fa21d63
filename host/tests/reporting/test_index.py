"""The page about results over time."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from balance_hil import cli, history
from balance_hil.history import Result, append
from balance_hil.reporting.index import render_index, sparkline

EVIL = '<script>alert("x")</script>'


def results() -> list[Result]:
    common = {"command": "run", "variant": "lockstep", "bundle": "ppo"}
    return [
        Result(**common, board="left", good=True, metrics={"success_rate": 1.0, "return": 10.0}, time_s=1e9),
        Result(**common, board="left", good=True, metrics={"success_rate": 1.0, "return": 20.0}, bundle_id="2", time_s=2e9),
        Result(**common, board="right", good=False, reasons=["it fell"], metrics={"success_rate": 0.0}, time_s=2e9),
        Result(command="pytest", board="right", good=True, metrics={"passed": 9}, flaky=["a.py::test_b"], time_s=2e9),
        Result(command="pytest", board="right", good=True, metrics={"passed": 9}, flaky=["a.py::test_b"], time_s=2e9),
    ]


def text_of(page: str, title: str) -> str:
    """What a section shows, without markup."""
    section = re.search(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.DOTALL)
    assert section, title
    return re.sub(r"\s+", " ", re.sub(r"<title>.*?</title>|<[^>]+>", " ", section[1]))


def test_boards_trends_flaky_tests_and_turns() -> None:
    page = render_index(results(), "history.db")
    assert '<div class="verdict bad"><b>FAIL</b><ul><li>run lockstep ppo right: it fell</li>' in page
    boards = text_of(page, "Boards")
    assert re.search(r"left ✓ PASS .* right ✗ FAIL: run ppo ", boards), "one series of it is bad, although the last result is not"
    assert "a.py::test_b right" in text_of(page, "Flaky tests")
    assert re.search(r"return 10 to 20 bundle unknown to 2", text_of(page, "What turned"))
    trends = text_of(page, "Trends")
    assert re.search(r"run lockstep ppo left success_rate 1 1 run lockstep ppo right success_rate 0", trends)
    assert "return 20 2" in trends
    assert len(page) < 60_000, "without the plotting library"
    assert "http" not in page.replace("http-equiv", "")


def test_without_results_and_with_good_ones_only() -> None:
    assert "the last result of every series is good" in render_index(results()[:2], "history.db")
    assert "history.db: no results" in render_index([], "history.db")


def test_nothing_of_a_result_is_markup() -> None:
    result = Result(
        command=EVIL,
        variant=EVIL,
        bundle=EVIL,
        board=EVIL,
        engine=EVIL,
        good=False,
        reasons=[EVIL],
        metrics={EVIL: 1.0},
        flaky=[EVIL],
    )
    page = render_index([result, result], EVIL)
    assert EVIL not in page
    assert page.count("<script>") == render_index([], "").count("<script>")


@pytest.mark.parametrize("numbers", [[1.0], [1.0, 1.0], [3.0, 1.0, 2.0]])
def test_a_small_chart_stays_within_its_box_and_marks_the_last_number(numbers: list[float]) -> None:
    drawn = ET.fromstring(sparkline(numbers, "a<b"))
    points = [tuple(map(float, point.split(","))) for point in drawn.find("polyline").get("points").split()]
    assert len(points) == len(numbers)
    assert all(0 <= x <= 160 and 0 <= y <= 24 for x, y in points)
    assert (float(drawn.find("circle").get("cx")), float(drawn.find("circle").get("cy"))) == points[-1]
    if len(set(numbers)) > 1:
        assert points[0][1] < points[2][1] < points[1][1], "greater is higher"
    assert drawn.get("aria-label").startswith("a<b: ")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(history.VARIABLE, "history.db")

    def hil(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hil", "report", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as exited:
            code = int(exited.code or 0)
        return code, "".join(capsys.readouterr())

    code, said = hil("--history")
    assert (code, "there are no results yet" in said) == (3, True)
    for result in results():
        append(result)
    assert hil("--history") == (0, "index.html\n")
    assert "Results over time" in (tmp_path / "index.html").read_text()
    assert hil("--history", "-o", "pages/bench.html") == (0, "pages/bench.html\n")
    for arguments, message in (((), "name what the page is about"), (("--history", "x.mcap"), "exclude each other")):
        code, said = hil(*arguments)
        assert (code, message in said) == (2, True)
    monkeypatch.setenv(history.VARIABLE, "off")
    assert hil("--history")[0] == 2
