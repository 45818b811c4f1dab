"""Reports in a headless Chromium: they open without errors or requests, draw, and answer the mouse."""

import os
import shutil
from pathlib import Path

import pytest

from moesim.report.html.comparison import comparison_page
from moesim.report.html.placement import placement_page
from moesim.report.html.plan import plan_page
from moesim.report.html.render import write_page
from moesim.report.html.service_weeks import service_weeks_page
from moesim.report.html.serving import serving_page
from moesim.report.html.step import step_page
from moesim.report.html.sweep import sweep_page
from moesim.report.html.training_plan import training_plan_page
from moesim.report.html.training_weeks import training_weeks_page

playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SCREENSHOTS = Path(__file__).parents[3] / "out" / "reports"
PAGES = {
    "step": step_page,
    "comparison": comparison_page,
    "study": placement_page,
    "served": serving_page,
    "planned": plan_page,
    "training_planned": training_plan_page,
    "weeks": lambda made: training_weeks_page(*made),
    "service": lambda made: service_weeks_page(*made),
    "swept": lambda made: sweep_page(*made, "step_time_s", ("tokens_per_s_per_device",)),
}


@pytest.fixture(scope="module")
def browser():
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: install chromium, or name one in CHROMIUM (looked for {', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def tab(browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.complaints.append(request.url) if request.url[:4] == "http" else None)
    return page


@pytest.mark.parametrize("name", PAGES)
def test_a_report_opens_offline_draws_and_answers_the_mouse(name, tab, request, tmp_path):
    report = PAGES[name](request.getfixturevalue(name))
    path, _ = write_page(report, tmp_path / f"{name}.html")
    tab.complaints.clear()
    tab.goto(path.as_uri())
    plots = [number for number, section in enumerate(report.sections, 1) if section.plot is not None]
    until(tab, "[...document.querySelectorAll('.js-plotly-plot')].filter(e => e.calcdata).length == " + str(len(plots)))
    drawn = tab.evaluate("[...document.querySelectorAll('.js-plotly-plot')].map(e => [e.id, e._fullData.length])")
    counts = [len(report.sections[number - 1].plot.data) for number in plots]
    assert drawn == [[f"figure-{number}", count] for number, count in zip(plots, counts, strict=True)]
    assert hover_text(tab, f"#figure-{plots[0]}")
    if max(counts) > 1:  # one trace needs no legend
        hide_a_trace(tab)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    assert (SCREENSHOTS / f"{name}.png").stat().st_size > 20_000
    assert tab.complaints == []


def hover_text(tab, plot):
    """What the label says when the mouse crosses the middle of a plot from left to right."""
    tab.locator(plot).scroll_into_view_if_needed()
    box = tab.locator(f"{plot} .nsewdrag").first.bounding_box()
    for share in (0.08, 0.3, 0.5, 0.7, 0.9):
        for down in (0.5, 0.08):
            tab.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * down, steps=2)
            tab.wait_for_timeout(120)
            if text := tab.locator(f"{plot} .hoverlayer .hovertext").all_text_contents():
                return "".join(text)
    return ""


def until(tab, expression):
    """Wait until JavaScript says so. Playwright's own waiting evaluates text in the page, which the page forbids."""
    for _ in range(100):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(100)
    raise AssertionError(f"not within 10 s: {expression}")


def hide_a_trace(tab):
    """Click the first entry of the first legend, and wait until its trace is hidden."""
    toggle = tab.locator(".js-plotly-plot .legendtoggle").first
    toggle.scroll_into_view_if_needed()
    toggle.click()
    hidden = "e => e._fullData.some(t => t.visible == 'legendonly')"
    until(tab, f"[...document.querySelectorAll('.js-plotly-plot')].some({hidden})")
