"""Pages as text: what is in them is what was given, and nothing in them reaches out or breaks out.

What they do is tested in a browser, in ``tests/with_browser``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from d2np import draw
from d2np.errors import FormatError, ImageError
from d2np.features import Features, Matches

HOSTILE = """</script><script>alert("1")</script> '"><img src=x onerror=alert(2)> & $style.png"""
COUNT = 40


def features(size, count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, np.array(size) - 1, (count, 2))
    keypoints = np.column_stack([xy, rng.choice([0.5, 1.0, 2.0], count)])
    return Features(keypoints, rng.random(count), np.zeros((count, 512)), size)


def matches(count=COUNT, seed=1):
    rng = np.random.default_rng(seed)
    indices = np.column_stack([rng.permutation(COUNT)[:count], rng.permutation(COUNT)[:count]])
    return Matches(indices, rng.uniform(0.3, 1.0, count))


def photograph(width, height, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


A, B = photograph(320, 240), photograph(200, 260, 1)


def match_page(**options):
    return draw.match_page(A, B, features(A.size), features(B.size, seed=2), matches(), **options)


def keypoint_page(**options):
    strength = np.random.default_rng(0).random((240 // 4 - 1, 320 // 4 - 1))
    return draw.keypoint_page(A, features(A.size), strength, **options)


PAGES = pytest.mark.parametrize("make", [match_page, keypoint_page])


class Elements(HTMLParser):
    """Every element with its attributes, and the text that it begins with."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1][2] += data

    def all(self, tag):
        return [(attributes, text) for name, attributes, text in self.found if name == tag]

    def by_id(self, name):
        ((_, attributes, text),) = [each for each in self.found if each[1].get("id") == name]
        return attributes, text


def data_of(page):
    return json.loads(Elements(page).by_id("data")[1])


def embedded(url):
    kind, _, content = url.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    image.load()
    assert kind == f"data:image/{image.format.lower()}"
    return image


# What is in a page


def test_matches_are_in_the_page_the_most_similar_first():
    a, b, found = features(A.size), features(B.size, seed=2), matches()
    data = data_of(draw.match_page(A, B, a, b, found))
    order = np.argsort(-found.similarities)
    np.testing.assert_allclose(data["similarities"], found.similarities[order], atol=0.51e-4)
    for key, given, column in (("a", a, 0), ("b", b, 1)):
        expected = given.keypoints[found.indices[order, column]]
        np.testing.assert_allclose(data[key]["x"], expected[:, 0], atol=0.51e-2)
        np.testing.assert_allclose(data[key]["y"], expected[:, 1], atol=0.51e-2)
        np.testing.assert_array_equal(data[key]["scale"], expected[:, 2])
    assert data["sizes"] == [{"width": 320, "height": 240}, {"width": 200, "height": 260}]
    assert data["inliers"] is None


def test_keypoints_are_in_the_page_the_strongest_first():
    given = features(A.size)
    data = data_of(draw.keypoint_page(A, given))
    order = np.argsort(-given.scores)
    np.testing.assert_allclose(data["scores"], given.scores[order], rtol=1e-4)
    np.testing.assert_allclose(data["points"]["x"], given.keypoints[order, 0], atol=0.51e-2)
    assert data["shades"] == sorted(data["shades"], reverse=True)
    assert data["shades"][0] == len(data["colours"]) - 1
    assert data["heat"] is None


def test_small_scores_keep_their_digits():
    given = features(A.size, 2)
    small = Features(given.keypoints, [1.2345e-7, 1.2346e-7], given.descriptors, given.image_size)
    assert data_of(draw.keypoint_page(A, small))["scores"] == [1.2346e-7, 1.2345e-7]


def test_inliers_come_with_the_matches():
    mask = np.arange(COUNT) % 3 == 0
    verified = replace(matches(), inliers=mask)
    page = draw.match_page(A, B, features(A.size), features(B.size, seed=2), verified)
    order = np.argsort(-verified.similarities)
    assert data_of(page)["inliers"] == mask[order].astype(int).tolist()
    assert "hidden" not in Elements(page).by_id("kinds")[0]
    assert "hidden" in Elements(match_page()).by_id("kinds")[0]


def test_numbers_are_compact():
    given = matches()
    size = len(json.dumps(data_of(match_page()), separators=(",", ":")))
    assert size < 48 * len(given) + 1000


def test_the_image_is_the_image():
    elements = Elements(match_page())
    for name, given in (("image-a", A), ("image-b", B)):
        shown = embedded(elements.by_id(name)[0]["src"])
        assert shown.size == given.size
        assert abs(np.asarray(shown).astype(int) - np.asarray(given)).mean() < 3


def test_large_images_are_embedded_smaller_and_positions_stay():
    large = photograph(2500, 1000)
    given = features(large.size)
    page = draw.keypoint_page(large, given)
    assert embedded(Elements(page).by_id("image")[0]["src"]).size == (1600, 640)
    data = data_of(page)
    assert data["sizes"] == [{"width": 2500, "height": 1000}]
    assert max(data["points"]["x"]) == pytest.approx(given.keypoints[:, 0].max(), abs=0.006)


def test_drawings_stay_exact():
    drawing = np.zeros((300, 400, 3), np.uint8)
    drawing[100:120] = (255, 0, 0)
    page = draw.keypoint_page(drawing, features((400, 300)))
    shown = embedded(Elements(page).by_id("image")[0]["src"])
    assert shown.format == "PNG"
    np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), drawing)


def test_the_heat_map_covers_the_image_the_stronger_the_less_transparent():
    strength = np.zeros((59, 79))
    strength[:, 40:] = 1
    data = data_of(draw.keypoint_page(A, features(A.size), strength))
    heat = np.asarray(embedded(data["heat"]).convert("RGBA"))
    assert heat.shape == (240, 320, 4)
    left, right = heat[120, 40], heat[120, 280]
    assert left[3] < right[3] < 255
    assert left[:3].sum() < 10
    assert right[:3].sum() > 600
    # Cell 40 begins at pixel 160.
    assert abs(np.argmax(heat[120, :, 3] > (int(left[3]) + right[3]) / 2) - 160) <= 1


def test_nothing_found_is_a_page_too():
    none, nobody = features(A.size, 0), features(B.size, 0)
    data = data_of(draw.match_page(A, B, none, nobody, Matches(np.zeros((0, 2), int), np.zeros(0))))
    assert data["similarities"] == []
    assert data_of(draw.keypoint_page(A, none))["scores"] == []


def test_the_same_input_gives_the_same_page():
    assert match_page() == match_page()
    assert keypoint_page() == keypoint_page()


# Nothing reaches out


@PAGES
def test_nothing_is_loaded_from_anywhere(make):
    page = make()
    assert not re.search(r"https?:|//[a-z]+\.|wss?:", re.sub(r"base64,[\w+/=]+", "", page))
    for tag, attributes, _ in Elements(page).found:
        assert tag not in ("iframe", "object", "embed", "base", "audio", "video")
        for name in ("src", "href", "action", "srcset", "data", "poster", "background"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"@import|import\(|url\(|fetch\(|XMLHttpRequest|localStorage", page)


@PAGES
def test_the_policy_allows_what_is_there_and_nothing_else(make):
    elements = Elements(make())
    policy = elements.all("meta")[1][0]
    assert policy["http-equiv"] == "Content-Security-Policy"
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    (style,) = elements.all("style")
    scripts = [text for attributes, text in elements.all("script") if "type" not in attributes]
    assert len(scripts) == 1

    def source(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": source(style[1]),
        "script-src": source(scripts[0]),
    }
    # What the policy would block is not there.
    for _, attributes, _ in elements.found:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)


# Nothing breaks out


@PAGES
def test_hostile_names_are_only_text(make):
    harmless = Elements(make())
    names = {"names": (HOSTILE, "x")} if make is match_page else {"name": HOSTILE}
    elements = Elements(make(**names))
    assert [tag for tag, _, _ in elements.found] == [tag for tag, _, _ in harmless.found]
    assert [set(each) for _, each, _ in elements.found] == [set(each) for _, each, _ in harmless.found]
    assert elements.all("img")[0][0]["alt"] == HOSTILE
    assert elements.all("title")[0][1].startswith(HOSTILE)
    assert elements.all("bdi")[0][1] == HOSTILE


def test_a_name_that_is_no_text():
    page = keypoint_page(name=os.fsdecode(b"caf\xe9.png"))
    page.encode()
    assert Elements(page).all("bdi")[0][1] == "caf?.png"


def test_data_cannot_end_its_element():
    from d2np.draw.html import _json

    text = _json({"name": "</script><!--&"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": "</script><!--&"}


def test_scripts_and_styles_cannot_end_their_elements():
    for make in (match_page, keypoint_page):
        page = make()
        assert page.count("</script") == page.count("<script") == 2
        assert page.count("</style") == page.count("<style") == 1
        assert "<!--" not in Elements(page).all("script")[1][1]


def test_images_have_names():
    assert Elements(match_page()).all("title")[0][1] == "A and B: matches"
    assert Elements(match_page(names=("1.png", "2.png"))).all("title")[0][1] == "1.png and 2.png: matches"
    assert Elements(keypoint_page(name="1.png")).all("title")[0][1] == "1.png: keypoints"


# Bad input


def test_bad_input():
    a, b, found = features(A.size), features(B.size), matches()
    with pytest.raises(FormatError, match="features_b belong to an image of 200 x 260"):
        draw.match_page(A, A, a, b, found)
    with pytest.raises(FormatError, match="names keypoint"):
        draw.match_page(A, B, a, features(B.size, 3), found)
    with pytest.raises(FormatError, match="does not belong"):
        draw.keypoint_page(A, a, np.zeros((3, 30)))
    with pytest.raises(FormatError, match="finite"):
        draw.keypoint_page(A, a, np.full((59, 79), np.nan))
    with pytest.raises(ImageError, match=r"(?i)no such file"):
        draw.keypoint_page("none.png", a)
    nan = Features([[np.nan, 1, 1]], [1], np.zeros((1, 512)), A.size)
    with pytest.raises(FormatError, match="finite"):
        draw.keypoint_page(A, nan)
