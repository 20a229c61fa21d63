"""The page and the picture of a recording."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
from click.testing import CliRunner, Result

from balance_hil.cli.report import command
from balance_hil.errors import HarnessError, RecordingError, UsageError
from balance_hil.recording import Recording, RecordingWriter, Step, read_recording
from balance_hil.reporting import figures
from balance_hil.reporting.page import render_page
from balance_hil.spec import PolicySpec, Signal

SPEC = PolicySpec(
    environment="balance/Balance-v0",
    observation=(Signal(index=0, name="pitch", unit="rad", min=-1, max=1),),
    action=tuple(Signal(index=i, name=f"wheel_{i}", unit="rad/s", min=-1, max=1) for i in range(2)),
    control_period_s=0.005,
)
EPISODES = 2
STEPS = 1500
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def timed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("report") / "run.mcap", timed=True)


@pytest.fixture(scope="module")
def timed(timed_file: Path) -> Recording:
    return read_recording(timed_file)


@pytest.fixture(scope="module")
def lockstep(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return read_recording(write(tmp_path_factory.mktemp("report") / "lock.mcap", timed=False))


@pytest.fixture(scope="module")
def page(timed: Recording) -> str:
    return render_page(timed, HOSTILE)


@pytest.fixture(scope="module")
def short_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what is not about the curves: drawing few points is quick."""
    return write(tmp_path_factory.mktemp("report") / "short.mcap", timed=True, steps=20)


def write(path: Path, *, timed: bool, steps: int = STEPS) -> Path:
    """Two episodes: the first is good, the second fails; one held step; one round trip of 40 ms."""
    meta = {"bundle": "0123456789ab", "clock": "realtime" if timed else "lockstep", "board": {"board": "native", "note": HOSTILE}}
    with RecordingWriter(path, meta, SPEC, ("pitch_rad", "speed_error_rad_s")) as writer:
        for row in range(EPISODES * steps):
            episode, step = divmod(row, steps)
            held = row == 700
            timing = ((None, None, 3.0) if held else (40_000.0 if row == 901 else 300.0, 20.0, 3.0)) if timed else ()
            vectors = (None, None) if held else ([1], [2, 3])
            pitch = 0.1 if row == 500 else 0.001 * np.sin(row / 50)
            actions = [(-1.0) ** step / 4 + 9 * episode, 0.0]
            writer.step(
                row * 0.005, Step(step * 0.005, episode, step, [0.0], actions, held, (pitch, 3.0), 1.0, *vectors, *timing)
            )
            if held:
                writer.fault(row * 0.005, episode, step, "lost", HOSTILE)
            if step == steps - 1:
                result = {"episode": episode, "seed": 10_000 + episode, "steps": steps, "failed": episode == 1}
                writer.episode((row + 1) * 0.005, result)
    return path


class Outline(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += " " + data.strip()


def test_the_page_opens_no_resource(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "video", "audio"} & {tag for tag, _ in outline.tags}
    for tag, attributes in outline.tags:
        assert "src" not in attributes
        for name, value in attributes.items():
            local = name.startswith("xmlns") or (value or "").startswith("#") or "href" not in name
            assert local, f"<{tag} {name}={value}> points elsewhere"
            assert "url(" not in (value or "") or "url(#" in (value or "")
    assert "@import" not in page
    assert page.replace("http://www.w3.org/", "").count("http") == 0, "namespaces alone may look like addresses"


def test_hostile_text_is_shown_and_not_obeyed(page: str) -> None:
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4, "title, heading, event and identity show it"


def test_the_page_tells_what_happened(page: str) -> None:
    text = Outline(page).text
    for expected in ("1 of 2 episodes without failure", "3000 control steps", "1 steps without a new action",
                     "3 speed_error_rad_s, RMS", "0.2500 action rate, mean", "0.30 ms round trip, median", "bundle 0123456789ab",
                     "10000 1500 good 1500", "10001 1500 failed 1500", "lost 1", "40000"):  # fmt: skip
        assert expected in " ".join(text.split()), expected


def test_identity_leaves_out_the_tables(page: str) -> None:
    identity = " ".join(Outline(page[page.index("<h2>Identity") :]).text.split())
    assert identity.startswith("Identity bundle 0123456789ab clock realtime board board native")
    assert "wheel" not in identity


def test_an_interrupted_run_says_so(short_file: Path) -> None:
    whole = read_recording(short_file)
    broken = replace(whole, meta={**whole.meta, "ended": "CableUnpluggedError: gone"}, episodes=whole.episodes[:1])
    text = " ".join(Outline(render_page(broken, "run.mcap")).text.split())
    assert "ended early: CableUnpluggedError: gone" in text
    assert "not finished" in text
    assert "1 of 2" not in text


def test_a_lockstep_recording_has_no_timing(lockstep: Recording) -> None:
    page = render_page(lockstep, "lock.mcap")
    text = Outline(page).text
    assert "round trip" not in text.lower()
    assert page.count("<svg") == 1
    assert len(figures.draw_run(lockstep).axes) == 2


def test_episodes_lie_end_to_end(timed: Recording) -> None:
    time_s = figures.run_time(timed)
    assert np.allclose(np.diff(time_s), 0.005)
    assert time_s[0] == 0
    (start,) = (time_s[1:][np.diff(timed.episode) != 0],)
    assert np.allclose(start, STEPS * 0.005)


def test_a_single_late_reply_among_thousands_is_drawn(timed: Recording) -> None:
    assert len(timed) > 2 * figures.BUCKETS, "otherwise nothing is summarized"
    _, _, round_trip = figures.draw_run(timed).axes
    band = round_trip.collections[0].get_paths()[0].vertices
    assert np.nanmax(band[:, 1]) == pytest.approx(40.0)
    assert round_trip.get_ylim()[1] > 40


def test_one_episode_alone(timed: Recording) -> None:
    axes = figures.draw_run(timed, episode=1).axes
    assert axes[-1].get_xlim() == (0.0, pytest.approx((STEPS - 1) * 0.005))
    assert len(axes[0].lines) == 1, "no border between episodes"
    with pytest.raises(UsageError, match="no episode 2"):
        figures.draw_run(timed, episode=2)


def test_figures_keep_their_ids_apart_and_repeat(short_file: Path) -> None:
    short = read_recording(short_file)
    first = figures.to_svg(figures.draw_run(short), "a")
    assert first == figures.to_svg(figures.draw_run(short), "a")

    def clips(svg: str) -> set[str]:
        return {element.get("id", "") for element in ET.fromstring(svg).iter() if element.tag.endswith("clipPath")}

    assert clips(first)
    assert clips(first).isdisjoint(clips(figures.to_svg(figures.draw_run(short), "b")))


def luminance(color: str) -> float:
    channels = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117", "#1e1e1e"])
@pytest.mark.parametrize("color", [figures.TEXT, figures.BAD, *figures.LINES])
def test_colors_read_on_light_and_dark_pages(color: str, background: str) -> None:
    low, high = sorted((luminance(color), luminance(background)))
    assert (high + 0.05) / (low + 0.05) >= 3.0, "WCAG 2 asks for 3:1 of graphics"


@pytest.mark.parametrize(("trace", "n_obs", "n_act"), [((), 24, 4), (("a < b", "%s"), 1, 1)])
@pytest.mark.parametrize("timed", [False, True])
def test_a_run_of_any_environment(tmp_path: Path, trace: tuple[str, ...], n_obs: int, n_act: int, timed: bool) -> None:
    spec = PolicySpec(
        environment="somebody:Else-v0",
        observation=tuple(Signal(index=i, name=f"obs_{i}", unit="", min=None, max=None) for i in range(n_obs)),
        action=tuple(Signal(index=i, name=f"act_{i}", unit="", min=None, max=None) for i in range(n_act)),
        control_period_s=0.05,
    )
    path = tmp_path / "run.mcap"
    with RecordingWriter(path, {"bundle": "0" * 12, "clock": "realtime", "board": {}}, spec, trace) as writer:
        for step in range(30):
            plant = [float("nan") if step < 3 else step] * len(trace)
            timing = (300.0, 20.0, 3.0) if timed else ()
            vectors = ([1] * n_obs, [2] * n_act)
            writer.step(
                step * 0.05, Step(step * 0.05, 0, step, [0.5] * n_obs, [0.1] * n_act, False, plant, -1.5, *vectors, *timing)
            )
        writer.episode(1.5, {"episode": 0, "seed": 3, "steps": 30, "failed": False})
    recording = read_recording(path)
    assert len(figures.draw_run(recording).axes) == 1 + bool(trace) + timed
    text = " ".join(Outline(render_page(recording, "run.mcap")).text.split())
    assert "3 30 good -45" in text
    assert "nan" not in text
    assert "pitch" not in text


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)


def test_the_page_lies_beside_the_recording_unless_told_otherwise(short_file: Path, tmp_path: Path) -> None:
    result = run(short_file)
    assert result.stdout.strip() == str(short_file.with_suffix(".html"))
    assert short_file.with_suffix(".html").read_text().startswith("<!doctype html>")
    target = tmp_path / "deep" / "page.html"
    assert run(short_file, "-o", target).exit_code == 0
    assert [path.name for path in target.parent.iterdir()] == ["page.html"], "and no temporary file"


def test_pictures(short_file: Path, tmp_path: Path) -> None:
    run(short_file, "--picture", tmp_path / "run.svg", "--episode", 0)
    assert ET.fromstring((tmp_path / "run.svg").read_text()).tag.endswith("svg")
    run(short_file, "--picture", tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (["--picture", "run.gif"], UsageError, "cannot draw a picture as run.gif"),
        (["--picture", "run.svg", "--episode", "9"], UsageError, "no episode 9"),
        (["--picture", "run.svg", "-o", "run.html"], Exception, "not both"),
        (["--episode", "1"], Exception, "--picture"),
        (["-o", "/dev/null/page.html"], HarnessError, "cannot write"),
    ],
)
def test_bad_options(short_file: Path, options: list[str], kind: type[Exception], text: str) -> None:
    result = run(short_file, *options)
    assert isinstance(result.exception, kind)
    assert text in str(result.exception)


def test_a_file_that_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"nothing")
    for path in (tmp_path / "x.mcap", tmp_path / "none.mcap"):
        assert isinstance(run(path).exception, RecordingError)


def test_what_the_policy_costs_the_board_is_on_the_page_as_far_as_it_is_known(short_file: Path):
    recording = read_recording(short_file)
    board = {"board": "qemu-m4", "arena_used": 616, "ram": 28_728, "flash": 0}
    known = replace(recording, meta={**recording.meta, "board": board, "instructions_per_inference": 4_445})
    page = render_page(known, "run.mcap")
    assert "4,445" in page
    assert "616 B" in page
    assert "28,728 B" in page
    assert "image in flash" not in page
    assert "instructions of an inference" not in render_page(recording, "run.mcap")
