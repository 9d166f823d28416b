"""The pages in a real browser. Needs Debian's chromium and chromium-driver, and the extra ``browser``.

Not collected by default: run ``pytest tests/with_browser`` where there is a browser.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from d2np import demo, draw
from d2np.features import Features, Matches

COUNT = 60
LIMIT = 200  # milliseconds; on an idle machine it is less than 50


class Page:
    """One page, opened; what a test looks at and does."""

    def __init__(self, driver, path):
        self.driver = driver
        driver.get(path.as_uri())
        WebDriverWait(driver, 10).until(lambda _: self.text("count"))

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def element(self, name):
        return self.driver.find_element(By.ID, name)

    def text(self, name):
        return self.js("return document.getElementById(arguments[0]).textContent", name)

    def shown(self, name):
        return self.element(name).is_displayed()

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def slide(self, name, value):
        self.js(
            "const slider = document.getElementById(arguments[0]); slider.value = arguments[1];"
            "slider.dispatchEvent(new Event('input', { bubbles: true }));",
            name,
            value,
        )

    def point_at(self, image, x, y, size, *, click=False):
        """Move the mouse to a pixel of an image of this size, as the page shows it."""
        box = self.js(
            "const box = document.getElementById(arguments[0]).getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]",
            image,
        )
        place = [
            round(box[k] + (at + 0.5) / size[k] * box[k + 2]) for k, at in enumerate((float(x), float(y)))
        ]
        actions = ActionChains(self.driver, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(*place)
        if click:
            actions.click()
        actions.perform()

    def ink(self, canvas):
        """How many pixels of a canvas are not empty."""
        return self.js(
            "const canvas = document.getElementById(arguments[0]);"
            "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
            "let count = 0; for (let k = 3; k < data.length; k += 4) if (data[k]) count++; return count",
            canvas,
        )

    def times(self, canvas, script, rounds=7):
        """Milliseconds of each round until what was drawn is on the canvas."""
        return self.js(
            f"const times = []; const canvas = document.getElementById(arguments[0]).getContext('2d');"
            f"for (let round = 0; round < {rounds}; round++) {{ const begin = performance.now(); {script};"
            "canvas.getImageData(0, 0, 1, 1); times.push(performance.now() - begin); } return times",
            canvas,
        )

    def check_silence(self):
        """Nothing was asked of any network, and nothing was complained about."""
        assert self.js("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
        asked = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        assert self.driver.current_url in asked
        assert [url for url in asked if not url.startswith(("data:", self.driver.current_url))] == []
        # What the browser thinks of reading canvases concerns these tests only: no page does it.
        complaints = [entry["message"] for entry in self.driver.get_log("browser")]
        assert [message for message in complaints if "getImageData" not in message] == []


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a page in a window of a size and a system of a theme; afterwards it must have been silent."""
    opened = []

    def call(text, *, width=1300, height=850, ratio=1, theme="light"):
        if opened:
            opened.pop().check_silence()
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False},
        )
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        path = tmp_path / "view.html"
        path.write_text(text, encoding="utf-8")
        opened.append(Page(browser, path))
        return opened[-1]

    yield call
    opened.pop().check_silence()


@pytest.fixture(scope="module")
def scene():
    """Two images, and matches on a grid that is coarse enough to point at one of them."""
    views = demo.views()
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(0.08, 0.92, 10), np.linspace(0.08, 0.92, 6)), -1).reshape(-1, 2)
    sets = []
    for image in (views.first, views.second):
        keypoints = np.column_stack([grid * image.size, rng.choice([0.5, 1, 2], COUNT)])
        sets.append(Features(keypoints, rng.random(COUNT), np.zeros((COUNT, 512)), image.size))
    similarities = np.linspace(0.5, 0.95, COUNT)[rng.permutation(COUNT)]
    return views.first, views.second, *sets, Matches(np.column_stack([np.arange(COUNT)] * 2), similarities)


@pytest.fixture(scope="module")
def match_text(scene):
    return draw.match_page(*scene, names=("first.jpg", "second.jpg"))


@pytest.fixture(scope="module")
def keypoint_text(scene):
    image, _, features, *_ = scene
    strength = np.random.default_rng(0).random((image.height // 4 - 1, image.width // 4 - 1))
    return draw.keypoint_page(image, features, strength, name="first.jpg")


# Matches


def test_the_page_has_what_it_should(open_page, match_text):
    page = open_page(match_text)
    assert page.driver.title == "first.jpg and second.jpg: matches"
    assert page.text("count") == "60 matches"
    for name in ("image-a", "image-b"):
        assert page.js("return document.getElementById(arguments[0]).naturalWidth", name) > 400
        assert page.shown(name)
    assert not page.shown("kinds")
    assert page.ink("all") > 1000
    assert page.ink("bars") > 100
    assert page.ink("one") == 0
    # All of it fits the window, and only a handful of elements hold it.
    assert page.js("return document.documentElement.scrollHeight <= window.innerHeight")
    assert page.js("return document.querySelectorAll('*').length") < 100


def test_the_slider_changes_lines_and_count(open_page, scene, match_text):
    page = open_page(match_text)
    before = page.ink("all")
    page.slide("minimum", 0.8)
    expected = int((scene[4].similarities >= 0.8).sum())
    assert 0 < expected < COUNT
    assert page.text("count") == f"{expected} of 60 matches"
    assert page.text("minimum-value") == "0.800"
    assert page.ink("all") < before
    page.slide("minimum", 1)
    assert page.text("count") == "1 of 60 matches"
    # With the keys of a slider, too; they are not taken for steps.
    page.element("minimum").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert page.text("minimum-value") == "0.501"
    assert page.ink("one") == 0


@pytest.mark.parametrize("end", ["a", "b"])
def test_pointing_at_an_end_shows_its_match(open_page, scene, match_text, end):
    page = open_page(match_text)
    features = scene[2] if end == "a" else scene[3]
    for k in (0, 27, 59):
        page.point_at(f"image-{end}", *features.keypoints[k, :2], features.image_size)
        assert page.text("similarity") == f"{scene[4].similarities[k]:.3f}"
        for name, each in (("a", scene[2]), ("b", scene[3])):
            x, y = each.keypoints[k, :2]
            shown = [float(part[2:]) for part in page.text(f"position-{name}").split(", ")]
            assert shown == pytest.approx([x, y], abs=0.06)
            assert page.ink(f"patch-{name}") > 1000
    assert page.shown("similarity")
    assert page.ink("one") > 500
    assert "focused" in page.element("stage").get_attribute("class")
    page.point_at("theme", 0, 0, (1, 1))
    assert page.ink("one") == page.ink("patch-a") == 0
    assert not page.shown("similarity")


def test_pointing_at_a_line_shows_its_match(open_page, scene):
    image, other, a, b, matches = scene
    page = open_page(
        draw.match_page(image, other, a, b, Matches(matches.indices[30:31], matches.similarities[30:31]))
    )
    (xa, ya), (xb, yb) = page.js("return [[a.x[0], a.y[0]], [b.x[0], b.y[0]]]")
    origin = page.js(
        "const box = document.getElementById('stage').getBoundingClientRect(); return [box.left, box.top]"
    )
    for share, near in ((0.3, True), (0.8, True), (1.2, False)):
        x, y = xa + share * (xb - xa) + origin[0], ya + share * (yb - ya) + origin[1]
        actions = ActionChains(page.driver, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        actions.perform()
        assert (page.ink("one") > 0) == near


def test_patches_show_what_lies_around_the_keypoints(open_page):
    # The upper left quarter is red, the rest blue; the keypoint lies in the corner between them.
    image = np.zeros((400, 400, 3), np.uint8)
    image[..., 2] = 255
    image[:200, :200] = (255, 0, 0)
    features = Features([[199.5, 199.5, 1]], [1], np.zeros((1, 512)), (400, 400))
    page = open_page(draw.match_page(image, image, features, features, Matches([[0, 0]], [1])))
    page.press(Keys.ARROW_RIGHT)
    for share, colour in (((0.3, 0.3), [255, 0, 0]), ((0.7, 0.3), [0, 0, 255]), ((0.7, 0.7), [0, 0, 255])):
        got = page.js(
            "const canvas = document.getElementById('patch-a');"
            "return [...canvas.getContext('2d').getImageData("
            "arguments[0] * canvas.width, arguments[1] * canvas.height, 1, 1).data].slice(0, 3)",
            *share,
        )
        assert got == colour


def test_keys_step_through_the_matches(open_page, scene, match_text):
    page = open_page(match_text)
    falling = np.sort(scene[4].similarities)[::-1]
    page.press(Keys.ARROW_RIGHT)
    for k in range(3):
        assert page.text("similarity") == f"{falling[k]:.3f}"
        assert page.text("rank") == f"{k + 1} of 60"
        assert page.text("announcement").startswith(f"Match {k + 1} of 60, similarity {falling[k]:.3f}")
        page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ARROW_LEFT)
    assert page.text("rank") == "3 of 60"
    page.press(Keys.END, Keys.ARROW_RIGHT)
    assert page.text("rank") == "60 of 60"
    page.press(Keys.HOME, Keys.ARROW_LEFT)
    assert page.text("rank") == "1 of 60"
    page.slide("minimum", 0.9)
    page.press(Keys.END)
    assert page.text("similarity") == f"{falling[falling >= 0.9][-1]:.3f}"
    # What is no longer shown is no longer pointed at.
    page.slide("minimum", 0.94)
    assert page.ink("one") == 0
    page.press(Keys.ARROW_RIGHT, Keys.ESCAPE)
    assert page.ink("one") == 0
    page.element("next").click()
    assert page.text("rank").startswith("1 of ")


def test_a_click_holds_a_match(open_page, scene, match_text):
    page = open_page(match_text)
    a = scene[2]
    one, other = a.keypoints[3, :2], a.keypoints[44, :2]
    page.point_at("image-a", *one, a.image_size, click=True)
    held = page.text("similarity")
    page.point_at("image-a", *other, a.image_size)
    assert page.text("similarity") == held
    page.press(Keys.ESCAPE)
    page.point_at("image-a", *one, a.image_size)
    page.point_at("image-a", *other, a.image_size)
    assert page.text("similarity") == f"{scene[4].similarities[44]:.3f}"


def test_inliers_and_outliers_can_be_switched_off(open_page, scene):
    mask = np.arange(COUNT) % 4 == 0
    page = open_page(draw.match_page(*scene[:4], replace(scene[4], inliers=mask)))
    assert page.shown("kinds")
    assert (page.text("inlier-count"), page.text("outlier-count")) == ("15", "45")
    both = page.ink("all")
    page.element("show-outliers").click()
    assert page.text("count") == "15 of 60 matches"
    assert 0 < page.ink("all") < both
    page.press(Keys.END)
    assert page.text("kind") == "inlier"
    page.element("show-inliers").click()
    assert page.text("count") == "0 of 60 matches"
    assert page.ink("all") == 0
    page.element("show-outliers").click()
    page.press(Keys.END)
    assert page.text("kind") == "outlier"


def test_no_matches(open_page, scene):
    page = open_page(draw.match_page(*scene[:4], Matches(np.zeros((0, 2), int), np.zeros(0))))
    assert page.text("count") == "0 matches"
    assert page.text("hint") == "There are no matches."
    assert not page.element("minimum").is_enabled()
    assert not page.element("next").is_enabled()
    page.press(Keys.ARROW_RIGHT, Keys.END, Keys.ESCAPE)
    page.point_at("image-a", 100, 100, scene[2].image_size, click=True)


def test_hostile_names_do_nothing(open_page, scene):
    name = """</script><script>document.title = "owned"</script>'"><img src=x onerror="document.title=1">"""
    page = open_page(draw.match_page(*scene, names=(name, name)))
    assert page.driver.title == f"{name} and {name}: matches"
    assert page.js("return document.images.length") == 2
    assert page.js("return document.querySelector('bdi').textContent") == name


# Themes and windows

LIGHTNESS = "return getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"


@pytest.mark.parametrize("text", ["match_text", "keypoint_text"])
def test_light_and_dark(open_page, text, request):
    text = request.getfixturevalue(text)
    assert min(open_page(text, theme="light").js(LIGHTNESS)) > 230
    page = open_page(text, theme="dark")
    assert max(page.js(LIGHTNESS)) < 40
    assert page.element("theme").text == "Light"
    page.element("theme").click()
    assert min(page.js(LIGHTNESS)) > 230
    assert page.element("theme").text == "Dark"
    page.element("theme").click()
    assert max(page.js(LIGHTNESS)) < 40


@pytest.mark.parametrize("text", ["match_text", "keypoint_text"])
@pytest.mark.parametrize("width", [360, 390, 600, 900])
def test_narrow_windows(open_page, text, width, request):
    page = open_page(request.getfixturevalue(text), width=width, height=760)
    assert page.js("return document.documentElement.scrollWidth") <= width
    if text == "match_text":
        top, other = (
            page.js("return document.getElementById(arguments[0]).getBoundingClientRect().top", name)
            for name in ("image-a", "image-b")
        )
        assert (other > top + 100) == (width < 640)
    page.press(Keys.ARROW_RIGHT)
    assert page.js(
        "const box = document.getElementById('detail').getBoundingClientRect();"
        "return box.top >= 0 && box.bottom <= window.innerHeight + 1"
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_verified_matches_on_a_phone(open_page, scene, theme):
    """All that a page can have, with names and a caption that do not fit a line."""
    names = ("IMG_20260101_120000_a_name_of_a_telephone.jpg", "2" * 60 + ".jpg")
    text = draw.match_page(
        *scene[:4],
        replace(scene[4], inliers=np.arange(COUNT) % 4 == 0),
        names=names,
        caption="No geometric agreement: 8 of 60 matches fit one fundamental matrix, as many as chance gives",
    )
    page = open_page(text, width=390, height=844, theme=theme, ratio=3)
    page.press(Keys.ARROW_RIGHT)
    assert page.js("return document.documentElement.scrollWidth") <= 390
    assert "as many as chance gives" in page.driver.find_element(By.CLASS_NAME, "caption").text
    for name in ("show-inliers", "show-outliers"):
        assert (
            page.js(
                "return document.getElementById(arguments[0]).closest('label').clientHeight",
                name,
            )
            >= 24
        )
    page.element("show-outliers").click()
    assert page.text("count") == "15 of 60 matches"


def test_inliers_stand_out(open_page, scene):
    """Of the same matches, outliers are fainter."""

    def strength(inlier):
        page = open_page(draw.match_page(*scene[:4], replace(scene[4], inliers=np.full(COUNT, inlier))))
        return page.js(
            "const canvas = document.getElementById('all');"
            "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
            "let sum = 0; for (let k = 3; k < data.length; k += 4) sum += data[k]; return sum"
        )

    assert strength(False) < 0.5 * strength(True)


def test_without_a_caption_there_is_none(open_page, match_text):
    page = open_page(match_text)
    assert not page.driver.find_element(By.CLASS_NAME, "caption").is_displayed()


def test_canvases_have_the_pixels_of_the_screen(open_page, match_text):
    page = open_page(match_text, ratio=2)
    assert page.js(
        "const canvas = document.getElementById('all'); return [canvas.width, canvas.height]"
    ) == page.js("return [2 * stage.clientWidth, 2 * stage.clientHeight]")


def test_a_changed_window_moves_the_lines_along(open_page, scene, match_text):
    page = open_page(match_text)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 700, "height": 700, "deviceScaleFactor": 1, "mobile": False},
    )
    WebDriverWait(page.driver, 5).until(lambda _: page.js("return innerWidth") == 700)
    a = scene[2]
    page.point_at("image-a", *a.keypoints[33, :2], a.image_size)
    assert page.text("similarity") == f"{scene[4].similarities[33]:.3f}"


# Keypoints


def test_keypoints_and_their_number(open_page, scene, keypoint_text):
    page = open_page(keypoint_text)
    assert page.driver.title == "first.jpg: keypoints"
    assert page.text("count") == "60 keypoints"
    before = page.ink("all")
    page.slide("strongest", 10)
    assert page.text("count") == "10 of 60 keypoints"
    assert page.ink("all") < before / 3
    page.slide("strongest", 0)
    assert page.ink("all") == 0


def test_pointing_at_a_keypoint_shows_it(open_page, scene, keypoint_text):
    page = open_page(keypoint_text)
    features = scene[2]
    order = np.argsort(-features.scores)
    for place in (0, 12, 59):
        k = order[place]
        page.point_at("image", *features.keypoints[k, :2], features.image_size)
        assert float(page.text("score")) == pytest.approx(features.scores[k], rel=1e-3)
        assert page.text("rank") == f"{place + 1} of 60"
        assert float(page.text("scale")) == features.keypoints[k, 2]
        assert page.ink("patch") > 1000
        assert page.ink("one") > 50
    page.press(Keys.ESCAPE, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.text("rank") == "2 of 60"
    assert page.text("announcement").startswith("Keypoint 2 of 60")


def test_the_radius_follows_the_scale(open_page):
    grey = np.full((400, 400, 3), 128, np.uint8)

    def ink(scale):
        one = Features([[200, 200, scale]], [1], np.zeros((1, 512)), (400, 400))
        return open_page(draw.keypoint_page(grey, one)).ink("all")

    assert ink(2) == pytest.approx(2 * ink(1), rel=0.15)


def test_the_strength_map_on_a_toggle(open_page, keypoint_text):
    page = open_page(keypoint_text)
    assert not page.shown("heat-map")
    page.element("heat").click()
    assert page.shown("heat-map")
    assert page.js("return document.getElementById('heat-map').naturalWidth") == 512
    boxes = [
        page.js(
            "const box = document.getElementById(arguments[0]).getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]",
            name,
        )
        for name in ("image", "heat-map")
    ]
    assert boxes[0] == boxes[1]
    page.element("heat").click()
    assert not page.shown("heat-map")


def test_the_strength_map_from_the_beginning_or_not_at_all(open_page, scene):
    image, _, features, *_ = scene
    page = open_page(draw.keypoint_page(image, features))
    assert not page.shown("heat")
    assert page.js("return document.querySelector('.kinds').hidden")
    page = open_page(draw.keypoint_page(image, features, np.ones((127, 127)), heat=True))
    assert page.shown("heat-map")


def test_no_keypoints(open_page):
    none = Features(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 512)), (64, 48))
    page = open_page(draw.keypoint_page(np.zeros((48, 64), np.uint8), none))
    assert page.text("count") == "0 keypoints"
    page.press(Keys.ARROW_RIGHT)
    assert page.ink("one") == 0


# Speed

REDRAW = (
    "const slider = document.querySelector('input[type=range]');"
    "slider.dispatchEvent(new Event('input', { bubbles: true }))"
)
HOVER = (
    "const box = stage.getBoundingClientRect();"
    "stage.dispatchEvent(new PointerEvent('pointermove', { pointerType: 'mouse',"
    "clientX: box.left + box.width * (0.1 + 0.11 * round), clientY: box.top + box.height / 2 }))"
)


def random_features(count, size, seed):
    rng = np.random.default_rng(seed)
    keypoints = np.column_stack([rng.uniform(0, 1, (count, 2)) * size, np.ones(count)])
    return Features(keypoints, rng.random(count), np.zeros((count, 512)), size)


@pytest.mark.parametrize("ratio", [1, 2])
def test_five_thousand_matches_without_lag(open_page, scene, capsys, ratio):
    image, other = scene[:2]
    a, b = random_features(5000, image.size, 0), random_features(5000, other.size, 1)
    moved = np.column_stack([a.keypoints[:, :2] / image.size * other.size, np.ones(5000)])
    b = Features(moved, b.scores, b.descriptors, b.image_size)
    similarities = np.random.default_rng(2).uniform(0.5, 1, 5000)
    matches = Matches(np.column_stack([np.arange(5000)] * 2), similarities)
    page = open_page(draw.match_page(image, other, a, b, matches), ratio=ratio)
    assert page.text("count") == "5,000 matches"
    redraw, hover = page.times("all", REDRAW), page.times("one", HOVER)
    with capsys.disabled():
        print(f"\n5000 matches, {ratio}x: redraw {np.median(redraw):.1f} ms, hover {np.median(hover):.1f} ms")
    assert page.ink("one") > 0
    assert np.median(redraw) < LIMIT
    assert np.median(hover) < LIMIT


def test_five_thousand_keypoints_without_lag(open_page, scene, capsys):
    image = scene[0]
    page = open_page(draw.keypoint_page(image, random_features(5000, image.size, 0)))
    page.slide("strongest", 5000)
    redraw, hover = page.times("all", REDRAW), page.times("one", HOVER)
    with capsys.disabled():
        print(f"\n5000 keypoints: redraw {np.median(redraw):.1f} ms, hover {np.median(hover):.1f} ms")
    assert np.median(redraw) < LIMIT
    assert np.median(hover) < LIMIT
