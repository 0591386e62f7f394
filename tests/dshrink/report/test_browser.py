"""The page in a real browser, Debian's chromium, without a screen and without a network."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_folders import write_everything

from dshrink.report.folder import read_folder
from dshrink.report.page import page_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytest.importorskip("selenium", reason="needs selenium (the dev extra)")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs a browser; Debian: apt-get install chromium chromium-driver",
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,900"),
)
#: Every figure is drawn: its place has a canvas, in Bokeh's shadow roots.
DRAWN = """
const hasCanvas = (node) => node.querySelector("canvas") ||
  [...node.querySelectorAll("*")].some((one) => one.shadowRoot && hasCanvas(one.shadowRoot));
return [...document.querySelectorAll(".place")].every((place) => hasCanvas(place));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "about:blank"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    write_everything(folder)
    page = folder / "report.html"
    page.write_text(page_of(read_folder(folder)), "utf-8")
    return page


@pytest.fixture(scope="module")
def page(browser: Any, file: Path) -> Any:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get_log("performance")  # what the empty page asked for
    browser.get(file.as_uri())
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(DRAWN))
    return browser


def requests(browser: Any) -> set[str]:
    messages = (json.loads(one["message"])["message"] for one in browser.get_log("performance"))
    return {
        one["params"]["request"]["url"]
        for one in messages
        if one["method"] == "Network.requestWillBeSent"
    }


def test_it_loads_without_errors_and_asks_for_nothing_but_itself(page: Any, file: Path) -> None:
    asked = {url for url in requests(page) if not url.startswith("data:")}
    assert asked == {file.as_uri()}
    said = [one for one in page.get_log("browser") if one["level"] in ("WARNING", "SEVERE")]
    assert said == []


def column(page: Any, grid: str, title: str) -> tuple[Any, list[str]]:
    """The button that sorts by a column, and the column's cells from top to bottom."""
    button, cells = page.execute_script(
        """
        const link = document.querySelector(`a[download="${arguments[0]}.csv"]`);
        const table = link.closest("figure").querySelector("table");
        const heads = [...table.querySelectorAll("th")];
        const at = heads.findIndex((head) => head.textContent.trim() === arguments[1]);
        const cells = [...table.tBodies[0].rows].map((row) => row.cells[at].textContent.trim());
        return [heads[at].querySelector("button"), cells];
        """,
        grid,
        title,
    )
    return button, cells


def test_a_column_sorts_by_number_both_ways_and_what_is_empty_comes_last(page: Any) -> None:
    button, before = column(page, "table_by_block", "saves ms")
    known = [float(cell) for cell in before if cell]
    empty = [""] * (len(before) - len(known))
    assert known != sorted(known)
    for order, said in ((sorted(known), "ascending"), (sorted(known)[::-1], "descending")):
        page.execute_script("arguments[0].focus();", button)
        button.send_keys("\n")  # as who has no mouse
        cells = column(page, "table_by_block", "saves ms")[1]
        assert [float(cell) for cell in cells if cell] == order
        assert cells[len(order) :] == empty
        head = page.execute_script("return arguments[0].parentElement;", button)
        assert head.get_attribute("aria-sort") == said


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_screen_and_phone_and_follows_the_colours_asked_for(
    page: Any, file: Path, width: int, scheme: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.get(file.as_uri())
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").split(",")[0])
    assert (red > 200) == (scheme == "light")


def test_it_prints_on_several_pages(page: Any) -> None:
    printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    data = base64.b64decode(printed["data"])
    assert data.startswith(b"%PDF-")
    assert data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") >= 3
