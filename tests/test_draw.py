"""Drawings: the right thing at the right pixel, in the right colour, and the image still to be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image

import d2np.draw as draw
from d2np.draw.canvas import colour_map, drawn_at, ranks, text_size
from d2np.errors import Error, FormatError, ImageError, OptionError
from d2np.features import Evidence, Features, Matches


def features(
    xy: ArrayLike, size: tuple[int, int], *, scale: ArrayLike = 1.0, scores: ArrayLike = ()
) -> Features:
    xy = np.asarray(xy, dtype=np.float32).reshape(-1, 2)
    keypoints = np.column_stack([xy, np.broadcast_to(np.asarray(scale, dtype=np.float32), len(xy))])
    chosen = np.asarray(scores, dtype=np.float32)
    if chosen.size != len(xy):
        chosen = np.ones(len(xy), dtype=np.float32)
    return Features(keypoints, chosen, np.zeros((len(xy), 512), dtype=np.float32), size)


def random_features(count: int, size: tuple[int, int], seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, np.array(size) - 1, (count, 2))
    return features(xy, size, scale=rng.choice([0.5, 1.0, 2.0], count), scores=rng.random(count))


def paired(count: int, similarities: ArrayLike | None = None) -> Matches:
    chosen = np.linspace(0.5, 1.0, count) if similarities is None else similarities
    return Matches(np.column_stack([np.arange(count)] * 2), np.asarray(chosen, dtype=np.float32))


def photograph(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth blobs of colour, as different from any drawing as a photograph is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def difference(a: Image.Image, b: Image.Image) -> NDArray[np.int64]:
    return abs(np.asarray(a).astype(np.int64) - np.asarray(b).astype(np.int64)).sum(axis=2)


def is_white(image: Image.Image) -> NDArray[np.bool_]:
    return (np.asarray(image) == 255).all(axis=2)


GREY = np.full((480, 640), 128, dtype=np.uint8)
DARK = np.zeros((480, 640), dtype=np.uint8)
GREEN, RED = (70, 236, 112), (255, 82, 36)


# Keypoints


def test_a_keypoint_is_a_circle_around_its_pixel_and_nothing_else() -> None:
    x, y = 300.0, 200.0
    changed = difference(
        draw.keypoints(GREY, features([[x, y]], (640, 480))), draw.keypoints(GREY, features([], (640, 480)))
    )
    rows, columns = np.nonzero(changed)
    assert rows.mean() == pytest.approx(y, abs=1e-9)
    assert columns.mean() == pytest.approx(x, abs=1e-9)
    distance = np.hypot(rows - y, columns - x)
    assert distance.min() > 2  # what was found stays visible
    assert distance.max() < 20
    assert changed[200, 300] == 0


def test_positions_are_exact_below_a_pixel() -> None:
    xy = (300.37, 200.81)
    ink = np.asarray(draw.keypoints(DARK, features([xy], (640, 480)))).astype(float).sum(axis=2)
    rows, columns = np.mgrid[:480, :640]
    assert (ink * columns).sum() / ink.sum() == pytest.approx(xy[0], abs=0.13)
    assert (ink * rows).sum() / ink.sum() == pytest.approx(xy[1], abs=0.13)


def test_edges_are_smooth() -> None:
    image = draw.keypoints(DARK, features([[300, 200]], (640, 480)))
    assert len(np.unique(np.asarray(image)[..., 0])) > 12


def test_the_radius_follows_the_scale() -> None:
    reach = []
    for scale in (0.5, 1.0, 2.0):
        image = draw.keypoints(DARK, features([[320, 240]], (640, 480), scale=scale))
        row = np.asarray(image)[240, 320:, 0]
        reach.append(float(row.argmax()))
    assert reach[0] < reach[1] < reach[2]
    assert reach[2] == pytest.approx(2 * reach[1], abs=2)


def test_the_colour_follows_the_rank_of_the_score() -> None:
    found = features([[100, 240], [300, 240], [500, 240]], (640, 480), scores=[5.0, 100.0, 6.0])
    image = np.asarray(draw.keypoints(DARK, found)).astype(int)
    brightness = [image[200:280, x - 40 : x + 40].max(axis=(0, 1)) for x in (100, 300, 500)]
    # In viridis green grows all the way.
    assert brightness[0][1] < brightness[2][1] < brightness[1][1]
    assert abs(brightness[1] - (253, 231, 37)).max() <= 3


def test_the_best_keypoint_is_on_top() -> None:
    """Of two in one place, the brighter one is seen; of equal ones, so is the first."""
    for scores in ([2.0, 1.0], [1.0, 2.0]):
        both = features([[320, 240]] * 2, (640, 480), scores=scores)
        assert abs(np.asarray(draw.keypoints(DARK, both)).astype(int) - (253, 231, 37)).sum(axis=2).min() < 9


def test_circles_are_seen_on_bright_and_on_dark_images() -> None:
    found = random_features(50, (640, 480))
    for level in (0, 128, 255):
        plain = np.full((480, 640), level, dtype=np.uint8)
        changed = difference(draw.keypoints(plain, found), Image.fromarray(plain).convert("RGB"))
        for x, y in found.keypoints[:, :2].astype(int):
            assert changed[max(0, y - 12) : y + 13, max(0, x - 12) : x + 13].max() > 150


def test_small_images_are_enlarged_by_a_whole_factor_and_keep_positions() -> None:
    small = np.zeros((100, 150), dtype=np.uint8)
    image = draw.keypoints(small, features([[20, 30]], (150, 100)))
    assert image.size == (450, 300)
    rows, columns = np.nonzero(np.asarray(image)[..., 0])
    assert columns.mean() == pytest.approx(20.5 * 3 - 0.5)
    assert rows.mean() == pytest.approx(30.5 * 3 - 0.5)
    assert draw.keypoints(np.zeros((400, 10), np.uint8), features([], (10, 400))).size == (10, 400)


def test_the_given_image_is_not_touched() -> None:
    image = photograph(640, 480)
    before = image.copy()
    draw.keypoints(image, random_features(20, (640, 480)))
    draw.heatmap(image, np.random.default_rng(0).random((119, 159)), strongest=5)
    np.testing.assert_array_equal(image, before)


def test_keypoints_at_and_beyond_the_border_are_cut_off() -> None:
    far = features([[0, 0], [639, 479], [-500, 10], [1e30, -1e30]], (640, 480), scale=[1, 1, -3, 1e30])
    assert draw.keypoints(GREY, far).size == (640, 480)
    assert draw.matches(GREY, GREY, far, far, paired(4)).mode == "RGB"


# Matches


def test_matches_lie_side_by_side_over_a_legend() -> None:
    nothing = features([], (640, 480))
    image = draw.matches(GREY, GREY, nothing, nothing, paired(0))
    img = np.asarray(image)
    assert image.mode == "RGB"
    assert image.width > 2 * 640
    assert image.height > 480
    assert (img[:480, :640] == 128).all()
    assert (img[:480, -640:] == 128).all()
    assert (img[:480, 640:-640] == (28, 28, 31)).all()
    assert (img[480:] != (28, 28, 31)).any(), "the legend says that there are no matches"


def test_a_match_joins_its_two_keypoints() -> None:
    a, b = features([[100, 100]], (640, 480)), features([[500, 400]], (640, 480))
    plain = draw.matches(GREY, GREY, a, b, paired(0))
    changed = difference(draw.matches(GREY, GREY, a, b, paired(1)), plain)[:480]
    start, end = np.array([100, 100]), np.array([plain.width - 640 + 500, 400])
    rows, columns = np.nonzero(changed)
    along = end - start
    offset = np.column_stack([columns, rows]) - start
    across = (offset[:, 0] * along[1] - offset[:, 1] * along[0]) / np.hypot(*along)
    assert abs(across).max() < 6
    assert columns.min() == pytest.approx(start[0], abs=6)
    assert columns.max() == pytest.approx(end[0], abs=6)
    for share in np.linspace(0, 1, 50):
        x, y = np.rint(start + share * along).astype(int)
        assert changed[y, x] > 50


def test_the_colour_follows_the_similarity_over_the_range_that_occurs() -> None:
    xy = [[320, 100], [320, 240], [320, 380]]
    both = features(xy, (640, 480))
    image = np.asarray(draw.matches(DARK, DARK, both, both, paired(3, [0.61, 0.62, 0.60]))).astype(int)
    ends = [image[y, 320] for y in (100, 240, 380)]
    assert abs(ends[1] - (253, 231, 37)).max() <= 2
    assert ends[2][1] < ends[0][1] < ends[1][1]


def test_the_most_similar_match_is_on_top() -> None:
    both = features([[320, 240]] * 2, (640, 480))
    for similarities in ([0.9, 0.5], [0.5, 0.9]):
        image = np.asarray(draw.matches(DARK, DARK, both, both, paired(2, similarities))).astype(int)
        assert abs(image[240, 320] - (253, 231, 37)).max() <= 2


def test_right_and_wrong_matches_are_green_and_red() -> None:
    both = features([[320, 100], [320, 380]], (640, 480))
    img = np.asarray(draw.matches(DARK, DARK, both, both, paired(2), correct=[True, False])).astype(int)
    assert abs(img[100, 320] - GREEN).max() <= 2
    assert abs(img[380, 320] - RED).max() <= 2
    crossing = features([[320, 240]] * 2, (640, 480))
    for correct in ([True, False], [False, True]):
        image = draw.matches(DARK, DARK, crossing, crossing, paired(2), correct=correct)
        assert abs(np.asarray(image)[240, 320].astype(int) - RED).max() <= 2, "a wrong match is never hidden"


def test_what_is_known_to_be_right_counts_more_than_verification() -> None:
    both = random_features(6, (640, 480))
    verified = Matches(paired(6).indices, paired(6).similarities, [True, False] * 3)
    correct = [True, True, False] * 2
    assert (
        draw.matches(GREY, GREY, both, both, verified, correct=correct).tobytes()
        == draw.matches(GREY, GREY, both, both, paired(6), correct=correct).tobytes()
    )


def test_outliers_are_faint_and_below_the_inliers() -> None:
    both = features([[320, 100], [320, 380]], (640, 480))
    plain = draw.matches(GREY, GREY, both, both, paired(0))

    def stands_out(inliers: list[bool]) -> NDArray[np.int64]:
        verified = Matches(paired(2).indices, [0.9, 0.9], inliers, np.eye(3))
        return difference(draw.matches(GREY, GREY, both, both, verified), plain)[:480]

    changed = stands_out([True, False])
    inlier, outlier = changed[90:110, 325:600].max(axis=0).min(), changed[370:390, 325:600].max(axis=0).min()
    assert 20 < outlier < 0.6 * inlier
    crossing = features([[320, 240]] * 2, (640, 480))
    for inliers in ([True, False], [False, True]):
        verified = Matches(paired(2).indices, [0.9, 0.9], inliers, np.eye(3))
        image = np.asarray(draw.matches(DARK, DARK, crossing, crossing, verified)).astype(int)
        assert abs(image[240, 320] - (253, 231, 37)).max() <= 2


def test_the_colours_of_verified_matches_span_the_inliers() -> None:
    xy = [[320, 100], [320, 240], [320, 380]]
    both = features(xy, (640, 480))
    verified = Matches(paired(3).indices, [0.9, 0.8, 0.2], [True, True, False], np.eye(3))
    only = verified.select(verified.inliers)
    image = np.asarray(draw.matches(DARK, DARK, both, both, verified)).astype(int)
    expected = np.asarray(draw.matches(DARK, DARK, both, both, only)).astype(int)
    for y in (100, 240):
        assert abs(image[y, 320] - expected[y, 320]).max() <= 2


@pytest.mark.parametrize("count", [0, 1, 3])
def test_matches_without_inliers_are_drawn(count: int) -> None:
    both = random_features(3, (640, 480))
    verified = Matches(paired(count).indices, paired(count).similarities, np.zeros(count, bool))
    assert draw.matches(GREY, GREY, both, both, verified).mode == "RGB"


@pytest.mark.parametrize("known", [False, True])
def test_the_images_stay_visible_below_2000_matches(known: bool) -> None:
    img = photograph(640, 480)
    a, b = random_features(2000, (640, 480), 1), random_features(2000, (640, 480), 2)
    inliers = np.arange(2000) % 2 == 0 if known else None
    image = draw.matches(img, img, a, b, replace(paired(2000), inliers=inliers))
    for drawn in (np.asarray(image)[:480, :640], np.asarray(image)[:480, -640:]):
        assert np.corrcoef(drawn.ravel(), img.ravel())[0, 1] > 0.8
        assert (abs(drawn.astype(int) - img).max(axis=2) < 64).mean() > 0.6


def test_few_matches_are_drawn_boldly() -> None:
    both = random_features(10, (640, 480))
    plain = draw.matches(GREY, GREY, both, both, paired(0))
    changed = difference(draw.matches(GREY, GREY, both, both, paired(10)), plain)[:480]
    # At least a pixel's width of each line stands out.
    assert (changed > 60).sum() > 10 * 640


def test_different_sizes_keep_their_relative_scale() -> None:
    small = np.full((300, 400), 255, dtype=np.uint8)
    image = draw.matches(GREY, small, features([], (640, 480)), features([], (400, 300)), paired(0))
    white = is_white(image)
    rows, columns = np.nonzero(white[:480])
    assert np.ptp(columns) + 1 == 400
    assert np.ptp(rows) + 1 == 300
    assert rows.mean() == pytest.approx(239.5, abs=1), "in the middle of the height"


def test_both_small_images_grow_by_one_factor() -> None:
    a, b = np.full((100, 200), 128, np.uint8), np.full((100, 100), 255, np.uint8)
    image = draw.matches(a, b, features([], (200, 100)), features([], (100, 100)), paired(0))
    assert np.ptp(np.nonzero(is_white(image)[:200])[1]) + 1 == 200


def test_panoramas_lie_one_above_the_other_and_portraits_side_by_side() -> None:
    wide = np.full((150, 500), 90, dtype=np.uint8)
    found = features([[250, 75]], (500, 150))
    image = draw.matches(wide, wide, found, found, paired(1))
    assert image.width == 500
    assert image.height > 300
    assert difference(image, draw.matches(wide, wide, found, found, paired(0)))[152, 250] > 50
    tall = np.full((500, 150), 90, dtype=np.uint8)
    found = features([[75, 250]], (150, 500))
    assert draw.matches(tall, tall, found, found, paired(1)).height < 600


def test_large_images_are_reduced_together() -> None:
    large = np.full((600, 3000), 128, dtype=np.uint8)
    found = features([[1500, 300]], (3000, 600))
    tall = np.rot90(large), features([[300, 1500]], (600, 3000))
    for image, given, size in ((large, found, "width"), (*tall, "height")):
        drawn = draw.matches(image, image, given, given, paired(1))
        assert getattr(drawn, size) < 4096 + 200
    image = draw.matches(tall[0], large, tall[1], found, paired(1))
    assert image.width in range(3600, 4097)
    both = draw.matches(large, np.zeros((2400, 3000), np.uint8), found, features([], (3000, 2400)), paired(0))
    assert both.width in range(4086, 4097)


@pytest.mark.parametrize("size", [(1, 1), (300, 1), (1, 300), (7, 5)])
def test_images_of_hardly_any_pixels(size: tuple[int, int]) -> None:
    img = np.full(size[::-1], 128, dtype=np.uint8)
    found = features([[0, 0], [size[0] - 1, size[1] - 1]], size, scores=[1, 2])
    assert draw.keypoints(img, found).mode == "RGB"
    image = draw.matches(img, img, found, found, paired(2))
    assert image.mode == "RGB"
    assert image.width >= 100, "wide enough for the legend"


def below(image: Image.Image, height: int) -> NDArray[np.uint8]:
    """Return the rows below the image itself."""
    return np.asarray(image)[height:]


def test_a_caption_adds_a_row_to_the_legend_of_matches() -> None:
    both = random_features(5, (640, 480))
    plain = draw.matches(GREY, GREY, both, both, paired(5))
    image = draw.matches(GREY, GREY, both, both, paired(5), caption="weights analytic")
    assert image.height > plain.height
    np.testing.assert_array_equal(np.asarray(image)[:480], np.asarray(plain)[:480])
    row = below(image, 480)[-20:]
    assert (row[:, :200] > 150).any()
    # At another size than its own, the drawing says so.
    small = np.zeros((100, 150), dtype=np.uint8)
    one = features([], (150, 100))
    long, short = (
        int(np.nonzero((below(each, each.height - 18) > 150).any(axis=(0, 2)))[0].max())
        for each in (
            draw.matches(small, small, one, one, paired(0), caption="weights analytic"),
            draw.matches(GREY, GREY, both, both, paired(5), caption="weights analytic"),
        )
    )
    assert long > short
    assert drawn_at(0.5) == ", drawn at 50 % of the size"
    assert drawn_at(1.0) == ""


def test_text_is_readable_where_a_page_shows_drawings_small() -> None:
    for width in (500, 1300, 3000):
        assert text_size(width) * min(1, 830 / width) >= 11


def test_the_legend_of_keypoints_has_a_colour_bar() -> None:
    image = draw.keypoints(GREY, random_features(9, (640, 480)), caption="weights analytic")
    strip = below(image, 480).astype(int)
    assert (abs(strip - (253, 231, 37)).max(axis=2) < 12).any()
    assert (strip[:, :100] > 150).any()


def test_the_legend_of_a_strength_map_has_a_colour_bar() -> None:
    strength = np.random.default_rng(0).random((119, 159))
    image = draw.heatmap(GREY, strength, caption="weights analytic")
    np.testing.assert_array_equal(np.asarray(image)[:480], np.asarray(draw.heatmap(GREY, strength)))
    strip = below(image, 480).astype(int)
    assert (abs(strip - (252, 255, 164)).max(axis=2) < 12).any()


@pytest.mark.parametrize("count", [0, 1])
def test_legends_of_hardly_any_keypoints(count: int) -> None:
    small = np.zeros((16, 16), dtype=np.uint8)
    image = draw.keypoints(small, features([[8, 8]] * count, (16, 16)), caption="weights analytic")
    assert image.width >= 128


def test_dots_at_the_ends_of_matches_grow_with_the_scale() -> None:
    ink = []
    for scale in (1.0, 3.0):
        found = features([[320, 240]], (640, 480), scale=scale)
        image = np.asarray(draw.matches(DARK, DARK, found, found, paired(1))).astype(int)
        ink.append((image[:480, :320].max(axis=2) > 100).sum())
    assert ink[1] > 3 * ink[0]


def test_no_agreement_is_told_in_the_legend() -> None:
    both = random_features(9, (640, 480))
    found = Matches(paired(9).indices, paired(9).similarities, np.zeros(9, bool))
    without = replace(found, evidence=Evidence(8, 3.5, False))
    images = [draw.matches(GREY, GREY, both, both, each) for each in (found, without)]
    np.testing.assert_array_equal(*(np.asarray(image)[:480] for image in images))
    assert difference(*images).any()


# Heat maps


def level_of(image: Image.Image) -> NDArray[np.float64]:
    level = np.asarray(image).astype(float).sum(axis=2)
    return level - level.min()


def test_a_map_has_the_size_and_the_alignment_of_the_image() -> None:
    strength = np.zeros((119, 159), dtype=np.float32)
    i, j = 40, 100
    strength[i, j] = 1
    image = draw.heatmap(DARK, strength)
    assert image.size == (640, 480)
    rows, columns = np.nonzero(level_of(image) > 0.5 * level_of(image).max())
    assert columns.mean() == pytest.approx(4 * j + 1.5)
    assert rows.mean() == pytest.approx(4 * i + 1.5)
    assert np.ptp(columns) < 6


def test_a_map_of_a_resized_image_is_aligned() -> None:
    strength = np.zeros((59, 79), dtype=np.float32)
    i, j = 50, 70
    strength[i, j] = 1
    level = level_of(draw.heatmap(DARK, strength, network_size=(320, 240)))
    rows, columns = np.nonzero(level > 0.6 * level.max())
    assert columns.mean() == pytest.approx((4 * j + 2) * 2 - 0.5, abs=0.01)
    assert rows.mean() == pytest.approx((4 * i + 2) * 2 - 0.5, abs=0.01)


@pytest.mark.parametrize("size", [(2000, 1333), (1601, 1203), (1512, 2016), (2400, 300), (1600, 1210)])
def test_the_size_after_the_published_resizing_is_known(size: tuple[int, int]) -> None:
    width, height = size
    if max(width, height) > 1600:
        factor = 1600 / max(width, height)
        width, height = int(width * factor), int(height * factor)
    if width + height > 2800:
        factor = 2800 / (width + height)
        width, height = int(width * factor), int(height * factor)
    strength = np.zeros((height // 4 - 1, width // 4 - 1), dtype=np.float32)
    strength[-1, -1] = 1
    small = Image.new("L", size)
    found = draw.heatmap(small, strength, strongest=1)
    exact = draw.heatmap(small, strength, strongest=1, network_size=(width, height))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(exact))


def test_the_colours_span_the_map_whatever_its_range() -> None:
    ramp = np.tile(np.linspace(0.2, 0.3, 159, dtype=np.float32), (119, 1))
    image = np.asarray(draw.heatmap(DARK, ramp)).astype(int)
    assert image[200, 0].max() <= 12
    assert image[200, -1].min() > 120
    ramp[0, 0] = 1e6
    outlier = np.asarray(draw.heatmap(DARK, ramp))
    assert abs(outlier[200].astype(int) - image[200]).max() < 12


def test_a_flat_map_is_fine() -> None:
    for value in (0.0, 0.7):
        image = np.asarray(draw.heatmap(GREY, np.full((119, 159), value, np.float32)))
        assert (image == image[0, 0]).all()


def test_over_shows_the_image_in_grey_where_nothing_is() -> None:
    img = photograph(640, 480)
    strength = np.zeros((119, 159), dtype=np.float32)
    strength[:, 80:] = 1
    image = np.asarray(draw.heatmap(img, strength)).astype(int)
    assert np.ptp(image[:, :300], axis=2).max() < 20
    brightness = np.asarray(Image.fromarray(img).convert("L"))
    assert np.corrcoef(image[:, :300, 0].ravel(), brightness[:, :300].ravel())[0, 1] > 0.99
    strong = image[:, 340:].reshape(-1, 3).mean(axis=0)
    assert strong[0] > strong[2] + 60


def square_centres(image: Image.Image) -> NDArray[np.float64]:
    """Centres (x, y) of marks that do not touch, in reading order of their first pixel."""
    white = is_white(image)
    centres = []
    while white.any():
        row, column = np.argwhere(white)[0]
        right = column + int(np.argmin(white[row, column:]))
        bottom = row + int(np.argmin(white[row:, column]))
        centres.append(((column + right - 1) / 2, (row + bottom - 1) / 2))
        white[row:bottom, column:right] = False
    return np.array(centres)


def test_the_strongest_cells_are_marked() -> None:
    strength = np.random.default_rng(0).random((119, 159)).astype(np.float32) * 0.5
    cells = [(10, 20), (30, 100), (60, 50), (110, 140)]
    for rank, cell in enumerate(cells):
        strength[cell] = 1 - 0.1 * rank
    for k in range(5):
        image = draw.heatmap(GREY, strength, strongest=min(k, 4))
        expected = [(4 * j + 1.5, 4 * i + 1.5) for i, j in sorted(cells[:k])]
        assert len(square_centres(image)) == k
        if k:
            assert abs(square_centres(image) - expected).max() <= 0.5


def test_among_equal_cells_the_first_are_marked() -> None:
    strength = np.zeros((119, 159), dtype=np.float32)
    cells = [(20, 120), (20, 140), (50, 10), (70, 70)]
    for cell in cells:
        strength[cell] = 1
    centres = square_centres(draw.heatmap(GREY, strength, strongest=3))
    assert abs(centres - [(4 * j + 1.5, 4 * i + 1.5) for i, j in cells[:3]]).max() <= 0.5
    everywhere = np.argwhere(is_white(draw.heatmap(GREY, np.zeros((119, 159)), strongest=1)))
    assert len(everywhere)
    assert everywhere.max() < 12, "in the top left corner"


def test_a_mark_leaves_its_cell_visible() -> None:
    strength = np.zeros((119, 159), dtype=np.float32)
    strength[40, 100] = 1
    plain, marked = (np.asarray(draw.heatmap(GREY, strength, strongest=k)) for k in (0, 1))
    np.testing.assert_array_equal(plain[160:164, 400:404], marked[160:164, 400:404])


def test_more_marks_than_cells_marks_all() -> None:
    small = np.full((16, 16), 128, dtype=np.uint8)
    assert draw.heatmap(small, np.zeros((3, 3)), strongest=200).size == (16, 16)


# All three


def drawings() -> dict[str, Callable[[object], Image.Image]]:
    found = random_features(30, (640, 480))
    strength = np.random.default_rng(3).random((119, 159))
    return {
        "keypoints": lambda image: draw.keypoints(image, found),
        "matches": lambda image: draw.matches(image, GREY, found, found, paired(30)),
        "heatmap": lambda image: draw.heatmap(image, strength, strongest=9),
    }


@pytest.mark.parametrize("name", ["keypoints", "matches", "heatmap"])
def test_paths_images_and_arrays_give_the_same_drawing(name: str, tmp_path: Path) -> None:
    image = photograph(640, 480)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    function = drawings()[name]
    first = np.asarray(function(image))
    assert first.dtype == np.uint8
    for same in (image, Image.fromarray(image), path, str(path)):
        np.testing.assert_array_equal(np.asarray(function(same)), first)


@pytest.mark.parametrize("name", ["keypoints", "matches", "heatmap"])
def test_bad_images(name: str, tmp_path: Path) -> None:
    function = drawings()[name]
    with pytest.raises(ImageError):
        function(tmp_path / "missing.png")
    with pytest.raises(ImageError):
        function(np.zeros((4, 4, 4, 4), dtype=np.uint8))
    with pytest.raises(FormatError, match="640"):
        function(np.zeros((100, 640), dtype=np.uint8)) if name != "heatmap" else draw.heatmap(
            np.zeros((100, 640), dtype=np.uint8), np.zeros((119, 159))
        )


FOUND = features([[10, 10], [20, 20]], (640, 480))
UNSURE = features([[10, np.nan]], (640, 480))


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (FormatError, lambda: draw.keypoints(GREY, "features")),
        (FormatError, lambda: draw.keypoints(GREY, UNSURE)),
        (FormatError, lambda: draw.keypoints(GREY, features([[1, 1]], (640, 480), scores=[np.nan]))),
        (FormatError, lambda: draw.matches(GREY, GREY, FOUND, FOUND, paired(3))),
        (FormatError, lambda: draw.matches(GREY, GREY, FOUND, FOUND, Matches([[0, -1]], [1.0]))),
        (FormatError, lambda: draw.matches(GREY, GREY, FOUND, FOUND, paired(1, [np.nan]))),
        (FormatError, lambda: draw.matches(GREY, GREY, FOUND, FOUND, [[0, 0]])),
        (FormatError, lambda: draw.matches(GREY, GREY, FOUND, None, paired(0))),
        (FormatError, lambda: draw.matches(GREY, GREY, FOUND, FOUND, paired(2), correct=[True])),
        (FormatError, lambda: draw.matches(GREY, GREY, FOUND, FOUND, paired(2), correct=[0, 1])),
        (FormatError, lambda: draw.heatmap(GREY, np.zeros(5))),
        (FormatError, lambda: draw.heatmap(GREY, np.zeros((0, 5)))),
        (FormatError, lambda: draw.heatmap(GREY, np.full((119, 159), np.nan))),
        (FormatError, lambda: draw.heatmap(GREY, [["a"]])),
        (FormatError, lambda: draw.heatmap(GREY, np.zeros((119, 100)))),
        (FormatError, lambda: draw.heatmap(GREY, np.zeros((119, 159)), network_size=(320, 240))),
        (FormatError, lambda: draw.heatmap(GREY, np.zeros((119, 159)), network_size=640)),
        (OptionError, lambda: draw.heatmap(GREY, np.zeros((119, 159)), strongest=-1)),
    ],
)
def test_bad_input_is_one_clear_sentence(error: type[Error], call: Callable[[], Image.Image]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 15


# The parts


@pytest.mark.parametrize("name", ["viridis", "inferno"])
def test_colour_maps_grow_brighter_all_the_way(name: str) -> None:
    colours = colour_map(name, np.linspace(0, 1, 256)).astype(float)
    luminance = colours @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > -0.75).all()
    assert luminance[-1] - luminance[0] > 150
    np.testing.assert_array_equal(colour_map(name, np.array([-1.0, 2.0])), colours[[0, -1]])


def test_ranks() -> None:
    np.testing.assert_allclose(ranks(np.float32([3, 1, 2])), [1, 0, 0.5])
    np.testing.assert_allclose(ranks(np.float32([5, 5, 5])), [1, 0.5, 0])
    np.testing.assert_allclose(ranks(np.float32([5])), 1)
    assert ranks(np.float32([])).shape == (0,)
