"""The page about recordings and comparisons: its numbers, its text, what it does with bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from balance_hil.cli.report import command
from balance_hil.distribution import Distribution
from balance_hil.environment import Environment, open_environment
from balance_hil.errors import HarnessError, RecordingError, UsageError
from balance_hil.recording import RecordingWriter, Step, read_recording
from balance_hil.reporting import charts, collect, frames, tables
from balance_hil.reporting.page import render_page

from .recordings import HOSTILE, STEPS, write_run


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run.mcap")


class Outline(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += " " + data.strip()


def page_of(*paths: Path) -> str:
    return render_page(collect.read_sources(paths), {})


def text_of(*paths: Path) -> str:
    return Outline(page_of(*paths)).text


# --- one run ----------------------------------------------------------------------------------------------------------


def test_the_head_gives_the_verdict_and_why(run_file: Path) -> None:
    text = text_of(run_file)
    assert "FAIL 1 of 2 episodes failed: seed 10001" in text
    assert "3,997 of 3,998 board equals tflm" in text
    assert "2: 1 late, 1 lost misses" in text
    assert "1 host, 1 link" in text, "misses by cause"


def test_metrics_have_units_targets_and_directions(run_file: Path) -> None:
    text = text_of(run_file)
    assert "speed_error_rms_rad_s ↓ 7.5 8: float policy, simulated" in text
    assert "return ↑ 1500" in text
    assert "misses ! 2: 1 late, 1 lost at most 300" in text


def test_latency_is_that_of_the_run_with_late_replies(run_file: Path) -> None:
    recording = read_recording(run_file)
    values = recording.round_trip_us[np.isfinite(recording.round_trip_us)]
    (row,) = (row for row in tables.timing_rows(collect.read_sources([run_file]).runs) if row[0] == "round trip")
    expected = Distribution.of(values.tolist())
    assert row[2:] == [f"{expected.count:,}", *(f"{v:,.0f}" for v in (expected.p50, expected.p99, expected.p999, expected.max))]
    assert row[-1] == "57,700"


def test_a_lockstep_run_has_no_latency(tmp_path: Path) -> None:
    path = write_run(tmp_path / "lock.mcap", timed=False)
    page = page_of(path)
    assert "In lockstep the plant waits for the board" in page
    assert 'class="histogram"' not in page
    assert "not timed" in page


def test_a_run_that_did_not_end_fails_with_the_reason(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.mcap", ended="the board is gone")
    text = text_of(path)
    assert "FAIL the run ended early: the board is gone" in text
    assert "not checked board equals tflm" in text


def test_what_of_a_cut_off_file_can_be_read_is_shown(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mcap").write_bytes(run_file.read_bytes()[:60_000])
    text = text_of(tmp_path / "cut.mcap")
    assert re.search(r"FAIL it is cut off after \d+ control steps", text)
    assert "int8 ranges" in text


@pytest.mark.parametrize(("trace", "n_obs", "n_act"), [((), 24, 4), (("a < b", "%s"), 1, 1)])
@pytest.mark.parametrize("timed", [False, True])
def test_a_run_of_any_environment(tmp_path: Path, trace: tuple[str, ...], n_obs: int, n_act: int, timed: bool) -> None:
    path = write_run(tmp_path / "run.mcap", timed=timed, steps=30, trace=trace, n_obs=n_obs, n_act=n_act)
    data = charts.chart_data(collect.read_sources([path]).runs)
    found = {group["title"]: len(group["charts"]) for group in data["groups"]}
    timing = {"Timing": 2} if timed else {}
    plant = {"Plant": len(trace)} if trace else {}
    assert found == {**timing, "Actions": n_act, **plant, "Observations": n_obs}
    assert ">nan<" not in page_of(path)


def test_int8_ranges(run_file: Path) -> None:
    codes = np.array([[-128, 5], [127, 5], [0, 5], [1, 6]], np.int8)
    first, second = tables.occupancy(codes, ["a", "b"])
    assert (first.low, first.high, first.codes, first.saturated) == (-128, 127, 4, 0.5)
    assert (second.low, second.high, second.codes, second.saturated) == (5, 6, 2, 0.0)
    assert first.shares.sum() == pytest.approx(1.0)


# --- the page is safe and whole ---------------------------------------------------------------------------------------


def test_the_page_opens_no_resource(run_file: Path) -> None:
    page = page_of(run_file)
    outline = Outline(page)
    assert not {"link", "iframe", "object", "embed", "video", "audio"} & {tag for tag, _ in outline.tags}
    for tag, attributes in outline.tags:
        assert "href" not in attributes
        assert (attributes.get("src") or "data:").startswith("data:"), f"<{tag} {attributes}>"
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_hostile_text_is_shown_and_not_obeyed(run_file: Path, tmp_path: Path) -> None:
    named = tmp_path / "<img src=x onerror=alert(1)>.mcap"
    named.write_bytes(run_file.read_bytes())
    for path in (run_file, named):
        outline = Outline(page_of(path))
        assert [tag for tag, _ in outline.tags if tag == "script"] == ["script"] * 3
        assert not [attributes for _, attributes in outline.tags if any(key.startswith("on") for key in attributes)]
        assert outline.text.count(HOSTILE) >= 4, "title, heading, event and identity show it"
    page = page_of(run_file)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert HOSTILE in json.dumps(json.loads(data[1])), "names of signals arrive whole"


def test_a_page_of_an_hour_is_small(monkeypatch: pytest.MonkeyPatch, run_file: Path) -> None:
    """The number of points is bounded, whatever the length: checked with a bound below that of this run."""
    monkeypatch.setattr(charts, "VALUES", 6000)
    data = charts.chart_data(collect.read_sources([run_file]).runs)
    curves = [chart["y"][0] for group in data["groups"] for chart in group["charts"]]
    assert sum(len(curve) * 3 / 4 / 4 for curve in curves) < 6000 * 1.5


# --- down-sampling ----------------------------------------------------------------------------------------------------


def test_no_outlier_is_lost() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000)
    values[[7, 50_123, 99_999]] = 80, -90, 100
    values[::7] = np.nan
    starts = charts.bucket_starts(len(values), np.array([20_000]), 4000)
    points = charts.m4(values, starts)
    assert len(points) < 4500
    assert np.nanmax(points) == 100
    assert np.nanmin(points) == -90
    window = slice(20_000 - charts.WINDOW, 20_000 + charts.WINDOW)
    time_s = np.arange(100_000) * 0.005
    times = charts.m4_times(time_s, starts)
    assert np.all(np.diff(times) >= 0)
    inside = (times >= time_s[window][0]) & (times <= time_s[window][-1])
    assert np.array_equal(points[inside], values[window], equal_nan=True), "around an event every step is there"


def test_extremes_keep_their_order_in_time() -> None:
    values = np.array([0.0, 5, -5, 1, 0, -7, 7, 2])
    assert charts.m4(values, np.array([0, 4])).tolist() == [0, 5, -5, 1, 0, -7, 7, 2]
    assert charts.m4(values, np.arange(8)).tolist() == values.tolist()


def test_the_ends_of_failed_episodes_come_first(run_file: Path) -> None:
    rows = charts.interesting(read_recording(run_file))
    assert rows[0] == 2 * STEPS - 1
    assert 901 in rows[:3], "the late reply"


# --- several ----------------------------------------------------------------------------------------------------------


def test_runs_side_by_side(run_file: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other.mcap", board="qemu-m7", good=True)
    sources = collect.read_sources([run_file, other])
    assert [run.label for run in sources.runs] == ["native", "qemu-m7"]
    text = Outline(render_page(sources, {})).text
    assert "verdict ✗ FAIL ✓ PASS" in text
    assert "native: 1 of 2 episodes failed" in text
    data = charts.chart_data(sources.runs)
    assert all(len(chart["y"]) == 2 for group in data["groups"] for chart in group["charts"])
    assert "runs" in data


def test_equal_runs_are_named_by_their_files(run_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mcap"
    again.write_bytes(run_file.read_bytes())
    assert [run.label for run in collect.read_sources([run_file, again]).runs] == ["run", "again"]


def comparison(good: bool = True) -> dict[str, Any]:
    pair = {"a": "tflm", "b": "board", "outputs": 400, "differing": 7, "max_lsb": 1, "causes": {HOSTILE: 5}, "unexplained": 2}
    layer = {"a": "tflm", "b": "board", "op": 1, "operator": "FULLY_CONNECTED", "values": 640, "differing": 9, "max_lsb": 2}
    layer |= {"new": {"requantization rounding": 4}, "propagated": 5, "unexplained": 0}
    verdict = {"good": good, "reasons": [] if good else ["2 differences are unexplained"]}
    document = {"schema": "balance_hil/compare@2", "inputs": 200, "pairs": [pair], "layers": [layer], "summary": "explained"}
    return {**document, "skipped": [{"runtime": "torch", "why": HOSTILE}], "verdict": verdict}


def test_differences_by_cause(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(comparison(good=False)))
    page = page_of(path)
    text = Outline(page).text
    assert "FAIL 2 differences are unexplained" in text
    assert f"torch was skipped: {HOSTILE}" in text
    assert "1 FULLY_CONNECTED 9 640 2" in text
    assert "requantization rounding: 4" in page
    assert "unexplained or not attributed: 2" in page


def test_a_folder(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_bytes(run_file.read_bytes())
    (tmp_path / "b.mcap.partial").write_bytes(run_file.read_bytes()[:60_000])
    (tmp_path / "comparison.json").write_text(json.dumps(comparison()))
    (tmp_path / "package.json").write_text("{}")
    sources = collect.read_sources([tmp_path])
    assert [run.label for run in sources.runs] == ["a", "b"]
    assert len(sources.comparisons) == 1
    assert not sources.unreadable


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_page_lies_beside_the_recording_unless_told_otherwise(run_file: Path, tmp_path: Path) -> None:
    result = run(run_file, "--no-frames")
    assert result.stdout.strip() == str(run_file.with_suffix(".html"))
    assert run_file.with_suffix(".html").read_text().startswith("<!doctype html>")
    target = tmp_path / "deep" / "page.html"
    assert run(run_file, "-o", target, "--no-frames").exit_code == 0
    assert [path.name for path in target.parent.iterdir()] == ["page.html"], "and no temporary file"


def test_an_unreadable_file_is_named_and_the_rest_shown(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"nothing")
    (tmp_path / "run.json").write_text('{"schema": "balance_hil/run@2"}')
    (tmp_path / "c.json").write_text(json.dumps({**comparison(), "pairs": 3}))
    result = run(
        run_file, tmp_path / "x.mcap", tmp_path / "run.json", tmp_path / "c.json", "-o", tmp_path / "p.html", "--no-frames"
    )
    assert result.exit_code == 3
    text = Outline((tmp_path / "p.html").read_text()).text
    for name in ("x.mcap", "run.json", "c.json"):
        assert f"{name} could not be read" in text
    assert "is a balance_hil/run@2 document" in text
    assert "not a sound MCAP file" in text


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (["x.mcap"], RecordingError, "not a sound MCAP file"),
        (["none.mcap"], RecordingError, "no such recording"),
        (["empty"], UsageError, "holds no recording"),
        (["RUN", "-o", "/dev/null/page.html"], HarnessError, "cannot write"),
    ],
)
def test_nothing_to_show(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], kind: type[Exception], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.mcap").write_bytes(b"nothing")
    Path("empty").mkdir()
    result = run(*[str(run_file) if each == "RUN" else each for each in arguments], "--no-frames")
    assert isinstance(result.exception, kind)
    assert text in str(result.exception)


@pytest.mark.parametrize(
    ("meta", "result"),
    [
        ({"float_metrics": {"speed_error_rms_rad_s": {}}}, {}),
        ({}, {"metrics": {"return": "x"}}),
        ({}, {"miss_causes": [1]}),
        ({}, {"equals_tflm": {"checked": {}}}),
        ({}, {"memory_bytes": "x"}),
        ({}, {"cost": {"unit": "cycles", "parts": {"engine": "x"}}}),
        ({"cost": [1]}, {}),
    ],
)
def test_nonsense_in_a_recording_is_refused(tmp_path: Path, meta: dict[str, Any], result: dict[str, Any]) -> None:
    path = write_run(tmp_path / "run.mcap", steps=20, changed_meta=meta, changed_result=result)
    with pytest.raises(RecordingError, match="not a recording of a run"):
        collect.read_sources([path])


def test_cycles_and_instructions_of_an_inference_have_rows_of_their_own(tmp_path: Path) -> None:
    cycles = {"unit": "cycles", "parts": {"total": 23_386, "0 FULLY_CONNECTED": 3_261}}
    chip = write_run(tmp_path / "chip.mcap", steps=20, changed_result={"cycles_per_inference": 11_875, "cost": cycles})
    instructions = {"unit": "instructions", "parts": {"engine": 4_290, "0 FULLY_CONNECTED": 1_443}}
    qemu = write_run(tmp_path / "qemu.mcap", steps=20, changed_meta={"cost": instructions})
    native = write_run(tmp_path / "native.mcap", steps=20, changed_meta={"cost": None})
    runs = collect.read_sources([chip, qemu, native]).runs
    rows = {row.name: [cell.text for cell in row.cells] for row in tables.engine_rows(runs)}
    assert {name: cells for name, cells in rows.items() if "cycles" in name or "instructions" in name} == {
        "cycles of an inference, median of the run": ["11,875", "", ""],
        "instructions: engine": ["", "4,290", ""],
        "instructions: 0 FULLY_CONNECTED": ["", "1,443", ""],
        "cycles: total": ["23,386", "", ""],
        "cycles: 0 FULLY_CONNECTED": ["3,261", "", ""],
    }


def test_a_recording_with_endless_parts_of_an_inference_is_cut(tmp_path: Path) -> None:
    cost = {"unit": "cycles", "parts": dict.fromkeys(map(str, range(500)), 1)}
    run = write_run(tmp_path / "run.mcap", steps=20, changed_meta={"cost": cost})
    assert len(tables.engine_rows(collect.read_sources([run]).runs)) < 100


def test_nonsense_about_an_episode_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.mcap", steps=20, changed_episode={"metrics": {"return": [1]}})
    with pytest.raises(RecordingError, match="not a recording of a run"):
        collect.read_sources([path])


def test_odd_metadata_is_shown(tmp_path: Path) -> None:
    odd = {"metrics": 3, "board": None, "seeds": "x", "max_lost": [], "options": 7, "versions": [HOSTILE]}
    path = write_run(tmp_path / "run.mcap", steps=20, changed_meta=odd)
    assert HOSTILE in text_of(path)
    assert frames.film_strips({"run": read_recording(path)}, None)["run"].message


# --- pictures of the plant --------------------------------------------------------------------------------------------


def test_no_picture_is_no_failure(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without EGL nor of a recording that does not hold what it names."""
    recording = read_recording(run_file)
    strips = frames.film_strips({"run": recording}, None)
    page = render_page(collect.read_sources([run_file]), strips)
    assert "no pictures: " in Outline(page).text


def test_a_module_is_imported_only_when_asked_for(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.mcap", steps=30, environment="antigravity:Evil-v0")
    (found,) = frames.film_strips({"run": read_recording(path)}, None).values()
    assert isinstance(found, UsageError)
    assert "names a module of its own" in found.message
    assert frames.film_strips({"run": read_recording(path)}, False) == {}


def test_frames_are_of_the_recorded_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Environment, "render", lambda self: np.zeros((48, 640, 3), np.uint8))
    rng = np.random.default_rng(0)
    for name, changed in (("same", False), ("changed", True)):
        with open_environment("balance/Balance-v0") as env, RecordingWriter(tmp_path / name, {"seeds": [7]}, env.spec) as writer:
            observation = env.reset(7)
            for step in range(60):
                action = rng.uniform(-1, 1, 2).astype(np.float32)
                recorded = -action if changed and step == 20 else action
                writer.step(step * 0.005, Step(step * 0.005, 0, step, observation.tolist(), recorded.tolist(), False, (), 0.0))
                observation = env.step(action).observation
    strip = frames.film_strip(read_recording(tmp_path / "same"))
    assert "bit for bit" in strip.title
    assert [round(at_s / 0.005) for at_s, _ in strip.frames] == [0, 8, 17, 25, 34, 42, 51, 59]
    assert all(png.startswith(b"\x89PNG") for _, png in strip.frames)
    assert "departs from the recording after the last picture" in frames.film_strip(read_recording(tmp_path / "changed")).title
