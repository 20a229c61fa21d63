"""The page in a real browser: curves are drawn, zoom is shared, nothing is logged, texts can be read, it prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balance_hil.history import Result
from balance_hil.reporting.collect import read_sources
from balance_hil.reporting.index import render_index
from balance_hil.reporting.page import render_page

from .recordings import write_run
from .test_report import comparison

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'balance-hil[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found: sudo apt-get install chromium")

# The color of every visible text against the first opaque background behind it, as WCAG 2 defines contrast.
CONTRAST = """() => {
  const channels = (color) => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    c.fillStyle = color; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const luminance = (rgb) => { const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const b = channels(getComputedStyle(e).backgroundColor);
    if (b[3] === 255) return b; } return [255, 255, 255, 255]; };
  let worst = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) { const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.getClientRects().length || ['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), text = channels(e instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [luminance(text), luminance(behind(e))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + ' ' + walker.currentNode.data.trim().slice(0, 40)]; }
  return worst; }"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
INK = """(canvas) => { const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let ink = 0; for (let i = 3; i < data.length; i += 4) ink += data[i] > 0; return ink; }"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    runs = [write_run(folder / "a.mcap"), write_run(folder / "b.mcap", board="qemu-m7", good=True)]
    (folder / "comparison.json").write_text(json.dumps(comparison()))
    page = folder / "page.html"
    page.write_text(render_page(read_sources([*runs, folder / "comparison.json"]), {}))
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 800}, offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append("a script of the recording ran"), dialog.dismiss()))
    page.goto(file.as_uri())
    page.wait_for_selector(".chart canvas")
    yield page
    assert problems == []
    context.close()


def ranges(page: Any) -> set[str]:
    """Which times the drawn plots show."""
    page.wait_for_timeout(100)
    return set(page.evaluate("[...document.querySelectorAll('[data-from]')].map(({dataset: {from, to}}) => `${from} ${to}`)"))


def test_zoom_is_shared_and_undone(page: Any) -> None:
    (whole,) = ranges(page)
    plot = page.locator(".chart .u-over").nth(1)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 20, steps=4)
    page.mouse.up()
    (zoomed,) = ranges(page)
    assert zoomed != whole
    page.locator(".chart").last.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    assert ranges(page) == {zoomed}, "a plot that comes into view later is zoomed as well"
    page.get_by_role("button", name="show all").press("Enter")
    assert ranges(page) == {whole}
    page.get_by_role("button", name="next event").click()
    (at_event,) = ranges(page)
    low, high = map(float, at_event.split())
    assert (low, high) == pytest.approx((3.0, 4.0)), "step 700 was lost, at 3.5 s"


def test_the_time_axis_names_faults_injected_faults_and_held_steps(page: Any) -> None:
    page.get_by_role("button", name="next event").click()
    timeline = page.locator(".chart").first
    timeline.locator(".u-over").hover()  # in the middle, where the event is
    shown = timeline.locator("output").text_content()
    names = {name.split(",")[0] for name in shown.split(" at ")[0].split("; ")}
    assert names == {"held", "lost", "injected drop rx"}, shown
    assert shown.endswith(" at 3.5 s")
    labels = page.evaluate(
        "() => { const box = (e) => e.getBoundingClientRect(); const chart = document.querySelector('.chart');"
        " return box(chart.querySelector('.u-over')).left - box(chart.querySelector('canvas')).left; }"
    )
    assert labels > 140, "the names of the rows fit beside the plot"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: Any, scheme: str) -> None:
    other = "dark" if scheme == "light" else "light"
    page.emulate_media(color_scheme=other)
    page.get_by_role("button", name="switch between light and dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    for setting in (other, scheme):
        page.emulate_media(color_scheme=setting)
        ratio, where = page.evaluate(CONTRAST)
        assert ratio >= 4.5, f"WCAG 2 asks for 4.5:1, {where} has {ratio:.2f}"
    page.evaluate("delete document.documentElement.dataset.theme")
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, f"without a choice: {where} has {ratio:.2f}"


def test_everything_is_drawn_on_paper(page: Any) -> None:
    page.emulate_media(media="print")
    inks = page.evaluate(
        f"() => {{ dispatchEvent(new Event('beforeprint')); return [...document.querySelectorAll('canvas')].map({INK}); }}"
    )
    assert len(inks) == page.locator(".chart").count()
    assert min(inks) > 1000, "a plot is empty"


def test_a_narrow_window_does_not_scroll_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_command_is_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator("[data-copy]").first
    wanted = page.locator("code").first.text_content()
    button.click()
    page.wait_for_function("button => button.textContent !== 'copy'", arg=button.element_handle())
    if button.text_content() == "copied":
        assert page.evaluate("navigator.clipboard.readText()") == wanted
    else:
        assert page.evaluate("getSelection().toString()") == wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_index_of_a_bench_needs_no_plots(browser: Any, tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "index.html"
    file.write_text(render_index([Result(command="run", board="left", good=True, metrics={"success_rate": 1.0})], "history.db"))
    page = browser.new_page(offline=True, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file.as_uri())
    assert page.locator("svg.trend").bounding_box()["width"] == 160
    before = page.evaluate(BACKGROUND)
    page.get_by_role("button", name="light and dark").click()
    assert page.evaluate(BACKGROUND) != before
    assert problems == []
    page.close()
