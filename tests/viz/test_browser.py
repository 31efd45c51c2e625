"""The page in a browser: as wide as a phone and a desk, with sliders, by the keyboard, with and without its script.

It takes Chromium and its driver, and the extra `browser` of this package.
"""

import base64
import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from report_pages import HOSTILE, SHOWN, everything, picture, strips

from mvae_jax.viz import grids, report, traversals

selenium = pytest.importorskip("selenium.webdriver", reason="the extra 'browser' is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

GREYS = ((20, 30, 40), (50, 60, 70))  # of the frames of `strips`


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("there is no Chromium with its driver")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    chromium = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def shown(browser, tmp_path):
    """A function that opens a page at a width; afterwards all is as it was."""

    def shown(document, width=1200, **media):
        path = tmp_path / "page.html"
        path.write_text(document, encoding="utf-8")
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(path.as_uri())
        return browser

    yield shown
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def wide():
    """A page with all that is wide: sheets, tables of many columns, long words."""
    row = {f"a column of some length {number}": 0.5 for number in range(20)}
    parts = [report.figure(picture(1500, 40), "A sheet"), report.table([row]), report.code("w" * 300)]
    return report.page("w" * 300, [report.heading("w" * 300), *parts, report.figure(strips(), "Rows"), "w" * 300])


@pytest.mark.parametrize("width", [320, 390, 1200])
@pytest.mark.parametrize("document", [wide(), everything(HOSTILE)], ids=["wide", "hostile"])
def test_no_page_scrolls_sideways(shown, document, width):
    page = shown(document, width)
    inner, outer = page.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert inner <= outer <= width


@pytest.mark.parametrize(("width", "version"), [(390, 400), (1200, None)])
def test_each_screen_shows_the_version_of_a_sheet_that_fits(shown, width, version):
    images = {"a": np.zeros((8, 8, 8, 3), np.uint8)}
    sheet = grids.comparison(images, columns=8)
    page = shown(report.page("Sheets", [report.figure(sheet, "A sheet")]), width)
    inner, outer, chosen = page.execute_script(
        "const b = document.querySelector('.scroll');"
        "return [b.scrollWidth, b.clientWidth, b.querySelector('img').naturalWidth]"
    )
    assert inner == outer
    assert chosen == (version or sheet.width)


def test_the_name_of_a_row_stays_while_its_numbers_scroll(shown):
    row = {"model": "VAE"} | {f"a column of some length {number}": 0.5 for number in range(20)}
    page = shown(report.page("Scores", [report.table([row])]), 390)
    moved, name, number = page.execute_script(
        "const b = document.querySelector('.scroll'); b.scrollLeft = 300;"
        "const left = (cell) => cell.getBoundingClientRect().left - b.getBoundingClientRect().left;"
        "const cells = b.querySelectorAll('td'); return [b.scrollLeft, left(cells[0]), left(cells[1])];"
    )
    assert (moved, name) == (300, 0)
    assert number < 0


@pytest.mark.parametrize(("count", "beside"), [(1, 1), (2, 2), (3, 3), (7, 3)])
def test_a_phone_shows_up_to_three_sliders_beside_one_another(shown, count, beside):
    rows = {f"dimension {number}": np.zeros((3, 32, 32, 3), np.uint8) for number in range(count)}
    group = traversals.Strips(rows, ["-1", "0", "1"], 1)
    page = shown(report.page("Rows", [report.figure(group, "Rows")]), 390)
    places = page.execute_script(
        "return [...document.querySelectorAll('.cell')].map((cell) => [cell.offsetTop, cell.offsetLeft])"
    )
    assert sum(top == places[0][0] for top, _ in places) == beside
    assert page.execute_script("return document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("size", [(1056, 716), (990, 612), (1300, 1800), (1056, 240)])
def test_the_first_picture_leaves_room_for_the_contents(shown, size):
    """Beneath four lines of text, numbers and a caption of two lines; a phone shows it as wide as it is."""
    numbers = report.headline(
        [("18.1 dB", "is the likeness (PSNR) of held-out images " * 2, "the mean image " * 4)] * 3
    )
    sheet = report.figure(picture(*size), "what comes back " * 6, fits=True, first=True)
    parts = [report.heading("Training")]
    document = report.page("VAE", [report.lead("7 models " * 28), numbers, sheet, report.contents(parts), *parts])

    def places(width):
        page = shown(document, width)
        return page.execute_script(
            "const box = (name) => document.querySelector(name).getBoundingClientRect();"
            "return [box('img').width, box('img').height, box('nav a').bottom]"
        )

    width, height, contents = places(1200)
    assert contents < 800
    assert height >= min(272, size[1])
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)
    assert places(390)[0] == 358


@pytest.mark.parametrize(("width", "first"), [(390, "img"), (1200, "nav")])
def test_what_is_turned_has_another_order_on_a_phone(shown, width, first):
    parts = [report.contents([report.heading("Training")]), report.figure(picture(900, 700), "A sheet")]
    page = shown(report.page("VAEs", [report.turned(parts)]), width)
    tops = {name: page.find_element(By.TAG_NAME, name).location["y"] for name in ("img", "nav")}
    assert min(tops, key=tops.__getitem__) == first
    inner, outer = page.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert inner <= outer


@pytest.mark.parametrize(
    ("pixels", "count", "side", "rendering"),
    [
        (64, 9, 103, "auto"),
        (64, 10, 91, "auto"),
        (32, 8, 96, "pixelated"),
        (64, 5, 128, "pixelated"),
    ],
)
def test_sliders_of_the_first_screen_stand_in_one_row(shown, pixels, count, side, rendering):
    rows = {f"attribute {number}": np.zeros((3, pixels, pixels, 3), np.uint8) for number in range(count)}
    group = traversals.Strips(rows, ["-1", "0", "1"], 1)
    page = shown(report.page("Rows", [report.figure(group, "Rows", first=True)]))
    found = page.execute_script(
        "return [...document.querySelectorAll('.cell')].map((cell) => [cell.offsetTop, cell.offsetWidth])"
    )
    assert found == [[found[0][0], side]] * count
    style = page.execute_script("return getComputedStyle(document.querySelector('.strip')).imageRendering")
    assert style == rendering


def test_a_checksum_needs_no_scrolling(shown):
    page = shown(report.page("Data", [report.values({"a name of some length": "0123456789abcdef" * 4})]), 390)
    inner, outer = page.execute_script(
        "const b = document.querySelector('.scroll'); return [b.scrollWidth, b.clientWidth]"
    )
    assert inner == outer


def greys(page):
    """The grey in the middle of each picture that has a slider."""
    found = []
    for strip in page.find_elements(By.CLASS_NAME, "strip"):
        with Image.open(io.BytesIO(strip.screenshot_as_png)) as shot:
            pixels = np.asarray(shot.convert("L"), int)
        found.append(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2])
    return found


def test_sliders_move_their_picture_by_keys_and_by_hand(shown):
    page = shown(report.page("Title", [report.figure(strips(start=1), "Rows")]))
    first, second = page.find_elements(By.TAG_NAME, "input")
    np.testing.assert_allclose(greys(page), [GREYS[0][1], GREYS[1][1]], atol=3)
    first.send_keys(Keys.ARROW_RIGHT)
    second.send_keys(Keys.HOME)
    np.testing.assert_allclose(greys(page), [GREYS[0][2], GREYS[1][0]], atol=3)
    assert [each.text for each in page.find_elements(By.CLASS_NAME, "value")] == ["2", "0"]
    assert [each.get_attribute("aria-valuetext") for each in (first, second)] == ["2", "0"]
    selenium.ActionChains(page).move_to_element_with_offset(first, 5 - first.size["width"] // 2, 0).click().perform()
    np.testing.assert_allclose(greys(page), [GREYS[0][0], GREYS[1][0]], atol=3)


def values(page):
    return [each.get_property("value") for each in page.find_elements(By.TAG_NAME, "input")]


def moves(page, seconds=1.5):
    """Whether the sliders move within some seconds."""
    before, end = values(page), time.monotonic() + seconds
    while time.monotonic() < end:
        if values(page) != before:
            return True
        time.sleep(0.05)
    return False


def test_rows_play_when_asked_and_pause(shown):
    page = shown(report.page("Title", [report.figure(strips(), "Rows")]))
    button = page.find_element(By.TAG_NAME, "button")
    assert not moves(page)
    button.click()
    assert button.text == "Pause"
    assert moves(page, 20)
    button.send_keys(Keys.ENTER)
    assert button.text == "Play"
    assert not moves(page)
    button.click()
    page.find_element(By.TAG_NAME, "input").send_keys(Keys.END)  # who takes a slider wants to look
    assert button.text == "Play"
    assert values(page)[0] == "2"


@pytest.mark.parametrize(("preference", "plays"), [("no-preference", True), ("reduce", False)])
def test_nothing_moves_by_itself_for_those_who_prefer_less_motion(shown, preference, plays):
    page = shown(report.page("Title", [report.figure(strips(plays=True))]), prefers_reduced_motion=preference)
    assert page.find_element(By.TAG_NAME, "button").text == ("Pause" if plays else "Play")
    assert moves(page, 20 if plays else 1.5) == plays


@pytest.mark.parametrize("width", [390, 1200])
def test_without_a_script_all_pictures_are_visible(shown, browser, width):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page = shown(report.page("Title", [report.figure(strips(), "Rows")]), width)
    with Image.open(io.BytesIO(base64.b64decode(page.get_screenshot_as_base64()))) as shot:
        seen = np.asarray(shot.convert("L"), int)
    for grey in np.ravel(GREYS):
        assert (np.abs(seen - grey) <= 3).sum() > 1000  # pixels


def test_hostile_text_stays_text(shown):
    page = shown(everything(HOSTILE))
    assert page.execute_script("return [document.scripts.length, typeof window.go]") == [1, "undefined"]
    assert page.find_element(By.TAG_NAME, "h2").get_property("textContent") == SHOWN
    assert not page.find_elements(By.CSS_SELECTOR, "img[src='x']")
    added = "const s = document.createElement('script'); s.textContent = 'window.bad = 1'; document.body.append(s);"
    assert page.execute_script(f"{added} return typeof window.bad") == "undefined"  # the policy forbids it
    assert not [line for line in page.get_log("browser") if "script-src" not in line["message"]]


def test_pictures_and_controls_have_names(shown):
    page = shown(everything("text"))
    assert all(image.get_attribute("alt") for image in page.find_elements(By.TAG_NAME, "img"))
    assert all(strip.get_attribute("aria-label") for strip in page.find_elements(By.CSS_SELECTOR, "[role=img]"))
    assert page.execute_script("return [...document.querySelectorAll('input')].map(i => i.labels.length)") == [1, 1]
    assert page.find_element(By.TAG_NAME, "button").accessible_name == "Play"


def test_the_keyboard_reaches_contents_scrolling_boxes_and_sliders(shown):
    page = shown(everything("text"))
    body, reached = page.find_element(By.TAG_NAME, "body"), []
    for _ in range(20):
        body.send_keys(Keys.TAB)
        reached.append(page.switch_to.active_element.tag_name)
        body = page.switch_to.active_element
    assert {"a", "div", "button", "input", "summary"} <= set(reached)
    page.find_element(By.CSS_SELECTOR, "nav a").send_keys(Keys.ENTER)
    assert page.current_url.endswith("#part-text")
