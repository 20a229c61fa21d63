"""The live page in a real browser: the robot and the traces are drawn, controls work, nothing is logged, texts can be read."""

import shutil

import pytest

from balance_hil.environment import open_environment
from balance_hil.live import LivePage

from ..reporting.test_page_in_browser import CONTRAST, INK
from .test_live_page import META, requests_within, step

pytest.importorskip("uvicorn", reason="the extra live is not installed: pip install 'balance-hil[live]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'balance-hil[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found: sudo apt-get install chromium")

COLORS = """() => { const gl = document.querySelector('#scene canvas'); const copy = document.createElement('canvas');
  [copy.width, copy.height] = [gl.width, gl.height]; const context = copy.getContext('2d');
  return new Promise((done) => requestAnimationFrame(() => { context.drawImage(gl, 0, 0);
    const data = context.getImageData(0, 0, copy.width, copy.height).data, seen = new Set();
    for (let i = 0; i < data.length; i += 4) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
    done(seen.size); })); }"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Opens the live page in a browser; fails at the end if anything was logged as an error."""
    contexts, problems = [], []

    def open_page(url, scheme="light", width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def live():
    with open_environment("balance/Balance-v0") as env, LivePage() as live:
        env.reset(seed=1)
        env.scene.begin_episode()
        live.begin(META, env, can_inject=True)
        for number in range(400):
            live.step(number * 0.005, step(number, env, round_trip_us=800.0 + number))
        live.fault(2.0, 0, 400, "late", "the reply of step 399 took 8 ms <b>&", round_trip_us=8000.0)
        yield live, env


def await_text(page, where, wanted):
    """Playwright's own wait_for_function is what the page's security policy forbids."""
    for _ in range(100):
        if wanted in page.inner_text(where):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{where} says {page.inner_text(where)!r}, not {wanted!r}")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 700)])
def test_the_run_is_drawn_and_can_be_read(live, open_page, scheme, width):
    page = open_page(live[0].url, scheme, width)
    page.wait_for_selector(".chart canvas")
    await_text(page, "#tiles", "p99")
    page.wait_for_timeout(500)
    assert page.inner_text("#state") == "running"
    assert "ppo on native" in page.inner_text("h1")
    assert all(ink > 200 for ink in page.eval_on_selector_all(".chart canvas", f"(all) => all.map({INK})"))
    assert page.evaluate(COLORS) > 20
    assert "late: the reply of step 399 took 8 ms <b>&" in page.inner_text("#events")
    assert page.evaluate("document.querySelectorAll('#histogram rect.late').length") == 1
    worst, where = page.evaluate(CONTRAST)
    assert worst >= 4.5, where
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = (
        "[...document.querySelectorAll('button, input, select')].filter((e) => !(e.innerText || e.ariaLabel || e.labels?.length))"
    )
    assert page.evaluate(f"{unnamed}.length") == 0


def test_everything_can_be_asked_for_with_the_keyboard(live, open_page):
    loop, _ = live
    page = open_page(loop.url)
    page.wait_for_selector("#controls:enabled")
    page.keyboard.press("Space")
    assert requests_within(loop) == [{"do": "pause"}]
    loop.paused(True)
    await_text(page, "#state", "paused")
    page.keyboard.press("Space")
    assert requests_within(loop) == [{"do": "resume"}]
    page.keyboard.press("ArrowLeft")
    assert requests_within(loop) == [{"do": "push", "x_m_s": 0, "y_m_s": 0.3}]
    page.focus("#targets input")
    page.keyboard.press("ArrowRight")
    assert requests_within(loop) == [{"do": "target", "name": "speed_target_rad_s", "value": 0.2}]
    page.select_option("#fault select", label="stall the link, 0.2 s")
    page.focus("#fault_text")
    page.keyboard.press("Enter")
    assert requests_within(loop) == [{"do": "fault", "fault": "stall:for_s=0.2"}]
    loop.refuse("no such <i>fault")
    await_text(page, "#refused", "no such <i>fault")


def test_the_end_and_the_next_run(live, open_page):
    loop, env = live
    page = open_page(loop.url)
    page.wait_for_selector("#controls:enabled")
    loop.end("FAIL: the robot fell")
    await_text(page, "#state", "FAIL: the robot fell")
    assert page.is_disabled("#pause")
    loop.begin({**META, "clock": "lockstep"}, env, can_inject=False)
    page.wait_for_selector("#controls:enabled")
    assert not page.is_visible("#fault")
    assert page.inner_text("#events") == ""
    loop.close()
    page.wait_for_selector("#controls:disabled", state="attached")
    assert "over" in page.inner_text("#state")


def test_an_environment_without_a_model_shows_its_signals(open_page):
    with open_environment("CartPole-v1", period_s=0.02) as env, LivePage() as loop:
        loop.begin({**META, "environment": "CartPole-v1"}, env, can_inject=True)
        page = open_page(loop.url)
        page.wait_for_selector("#controls:enabled")
        assert "no 3D model" in page.inner_text("#scene")
        assert not page.is_visible("#push")


def test_without_webgl_the_rest_works(browser, live):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "HTMLCanvasElement.prototype.getContext = ((own) => function (kind, ...more) "
        "{ return kind.startsWith('webgl') ? null : own.call(this, kind, ...more); })(HTMLCanvasElement.prototype.getContext)"
    )
    page.goto(live[0].url)
    page.wait_for_selector("#controls:enabled")
    assert "no WebGL" in page.inner_text("#scene")
    context.close()
