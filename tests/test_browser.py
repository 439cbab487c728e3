"""The page of a run in a real browser: what moves, what a screen reader finds, and that nothing leaves the page.

Needs Chromium (Debian: apt-get install chromium), playwright and axe-core (requirements-test.txt).
"""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

import sit_jax
from sit_jax import evaluate, report
from sit_jax.look.facts import read_facts
from sit_jax.look.page import page as make_page
from sit_jax.look.page import write_page

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync")
EVIL = "<img src=x onerror=alert(1)>"  # a class whose name is HTML
SMALL = {"steps": 6, "batch_size": 8, "eval_every": 2, "checkpoint_every": 6, "log_every": 1}
PANELS = (
    *("runs", "curves", "reconstructions", "evaluations", "neighbours"),
    *("map", "clusters", "copies", "outliers", "attention"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.usefixtures("quick_compilation"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run with a page, on 90 pictures with a mirrored copy, and an evaluation."""
    root = tmp_path_factory.mktemp("browser")
    rng = np.random.default_rng(0)
    for i in range(90):
        folder = root / "photos" / ("cats", EVIL, "ships")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:02d}.png")
        if i == 0:
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirror.png")
    run = sit_jax.pretrain(root / "photos", root / "runs" / "mine", config="folder:runlocal", **SMALL)
    assert evaluate.main(["evaluate", f"--workdir={run.workdir}", "--protocol=knn"]) == 0
    assert report.main(["report", f"--workdir={run.workdir}"]) == 0
    return root / "runs"


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{name}" for name in QUIET])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["screen", "phone"])
def page(request, chromium, runs):
    """The opened page; at the end, it had no error and asked for nothing but itself."""
    yield from opened(chromium, runs / "mine" / "report.html", request.param)


def opened(chromium, path, size):
    width, height = size
    found = chromium.new_page(viewport={"width": width, "height": height})
    problems, requests = [], []
    found.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on("dialog", lambda dialog: (problems.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
    found.on("request", lambda request: requests.append(request.url))
    found.goto(path.as_uri())
    found.wait_for_selector("#charts canvas" if (path.name == "report.html") else "main")
    yield found
    assert not problems
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    found.close()


def picture_of(page, selector):
    return page.locator(selector).screenshot()


def test_each_panel_is_there_and_fits_the_screen(page):
    for name in PANELS:
        assert page.locator(f"#{name}").is_visible(), name
    assert page.locator("#charts canvas").count() >= 10
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.locator("#map option").all_inner_texts() == ["cluster", "label"]
    assert EVIL in page.locator("#clusters").inner_text() + page.locator("#map").inner_text() + " ".join(
        page.evaluate("data.map.groups[1].names")
    )


def test_a_click_on_an_image_shows_its_neighbours(page):
    page.locator("#browse .tile").nth(7).click()
    index = int(page.locator("#near .query .tile").get_attribute("data-i"))
    assert index == int(page.locator("#browse .tile").nth(7).get_attribute("data-i"))
    near = page.locator("#near figure:not(.query) .tile")
    assert near.count() == 10
    shown = [int(near.nth(i).get_attribute("data-i")) for i in range(10)]
    assert shown == page.evaluate(f"data.neighbours.both.tiles[{index}]")
    page.locator("#token").select_option("rotation")
    shown = [int(near.nth(i).get_attribute("data-i")) for i in range(10)]
    assert shown == page.evaluate(f"data.neighbours.rotation.tiles[{index}]")
    page.locator("#outliers .tile").first.click()
    outlier = page.locator("#outliers .tile").first.get_attribute("data-i")
    assert page.locator("#near .query .tile").get_attribute("data-i") == outlier


def test_a_tile_shows_its_picture(page, runs):
    names = page.evaluate("data.names.slice(0, 20)")
    pictures = [coarse(Image.open(runs.parent / "photos" / name)) for name in names]
    tile = page.locator('#browse .tile[data-i="5"]')
    tile.scroll_into_view_if_needed()
    drawn = coarse(Image.open(io.BytesIO(tile.screenshot())))
    correlations = [float(np.corrcoef(drawn, picture)[0, 1]) for picture in pictures]
    assert np.argmax(correlations) == 5 and correlations[5] > 0.9


def coarse(picture):
    return np.asarray(picture.convert("RGB").resize((8, 8), Image.Resampling.BOX), float).ravel()


def test_names_are_filtered_and_browsed(page):
    total = page.evaluate("data.counts.shown")
    assert page.locator("#place").inner_text() == f"1 to 60 of {total}"
    page.locator("#later").click()
    assert page.locator("#place").inner_text() == f"61 to {total} of {total}"
    page.locator("#filter").fill("mirror")
    assert page.locator("#browse .tile").count() == 1
    page.locator("#filter").fill("no such name")
    assert page.locator("#place").inner_text() == "no image"


def test_the_slider_moves_through_the_steps(page):
    section = page.locator("#reconstructions")
    last, image = section.locator("output").inner_text(), section.locator("img")
    before = image.get_attribute("src")
    section.locator("input").focus()
    page.keyboard.press("ArrowLeft")
    assert section.locator("output").inner_text() == "4" != last == "6"
    assert image.get_attribute("src") != before and image.get_attribute("alt").endswith("after step 4")


def test_the_map_zooms_moves_and_answers_to_keys(page):
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    whole = picture_of(page, "#canvas")
    canvas.hover()
    page.mouse.wheel(0, -400)
    assert float(canvas.get_attribute("data-zoom")) > 2
    assert picture_of(page, "#canvas") != whole
    page.locator("#whole").click()
    assert float(canvas.get_attribute("data-zoom")) == 1
    canvas.focus()
    page.keyboard.press("+")
    assert float(canvas.get_attribute("data-zoom")) == 1.4
    before = picture_of(page, "#canvas")
    page.keyboard.press("ArrowLeft")
    assert picture_of(page, "#canvas") != before
    page.keyboard.press("Enter")
    assert page.locator("#near figure:not(.query) .tile").count() == 10
    page.locator("#colour").select_option("1")
    assert EVIL in page.locator("#legend").inner_text()


def test_curves_zoom_and_colours_change(page):
    plot = page.locator(".chart .u-over").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    whole = page.evaluate("plots[0].scales.x.max")
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 60)
    page.mouse.up()
    assert page.evaluate("plots[0].scales.x.max") < whole
    page.locator("#unzoom").click()
    page.wait_for_function(f"plots[0].scales.x.max >= {whole} - 1e-6")
    page.mouse.move(box["x"] + 60, box["y"] + 40)
    page.wait_for_function("document.querySelector('.u-legend .u-value').textContent !== '--'")
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") != theme


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_violation_of_accessibility(page, theme):
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    assert not serious_violations(page)
    page.evaluate("document.querySelector('#attention img').removeAttribute('alt')")
    assert [name for name, _ in serious_violations(page)] == ["image-alt"]  # the check can fail


def serious_violations(page):
    found = axe.Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]


def test_a_watched_page_reloads_until_it_is_paused(chromium, runs):
    path = runs / "watched.html"
    write_page(path, make_page([read_facts(runs / "mine")], refresh=1))
    page = chromium.new_page()
    loads = []
    page.on("load", lambda _: loads.append(1))
    page.goto(path.as_uri())
    page.wait_for_timeout(2500)
    assert len(loads) >= 2
    page.locator("#refresh").click()
    assert page.locator("#refresh").inner_text() == "Does not reload"
    seen = len(loads)
    page.wait_for_timeout(2500)
    assert len(loads) == seen
    page.close()
