"""Training: the loss and its gradient, the last layer, pairs and their correspondences, checkpoints."""

import io
import os
import subprocess
import sys
from pathlib import Path

import colmap_model
import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

import d2np
from d2np import FormatError, ImageError, OptionError
from d2np.training import Correspondences, Depths, Model, layer, loop, pairs, views
from d2np.training import loss as losses
from d2np.verification import transformed

REFERENCE = Path(__file__).parent / "reference"
SHAPE = (9, 11)


def photograph(width, height, seed=0):
    """Smooth noise, which has corners and blobs at several scales."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    noise = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))
    return Image.fromarray(np.clip(8.0 * (np.asarray(noise) - 127.5) + 127.5, 0, 255).astype(np.uint8))


def maps(seed, channels=7):
    rng = np.random.default_rng(seed)
    return rng.normal(0.3, 1, (2, *SHAPE, channels))


def correspondences(seed, count=40, whole=False):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, SHAPE, (count, 2)).astype(float)
    second = np.clip(first + rng.uniform(-3, 3, (count, 2)), 0, np.array(SHAPE) - 1.0)
    return Correspondences(first, np.rint(second) if whole else second)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("whole", [True, False])
def test_gradient_by_finite_differences(seed, whole):
    a, b = maps(seed)
    points = correspondences(seed, whole=whole)
    found = losses.ranking_loss(a, b, points)
    rng = np.random.default_rng(seed)
    for cells, gradient in ((a, found.first), (b, found.second)):
        for _ in range(30):
            place = tuple(rng.integers(0, cells.shape))
            kept, step = cells[place], 1e-6
            cells[place] = kept + step
            above = losses.ranking_loss(a, b, points).value
            cells[place] = kept - step
            below = losses.ranking_loss(a, b, points).value
            cells[place] = kept
            assert gradient[place] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-9)


def test_loss_in_a_case_worked_out_by_hand():
    """One point whose descriptors are equal, then orthogonal; all others are orthogonal."""
    a = np.zeros((1, 12, 12))
    a[0, np.arange(12), np.arange(12)] = 1
    found = losses.ranking_loss(a, a, Correspondences(np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]])))
    assert (found.value, found.accuracy) == (0, 1)
    assert not found.first.any()
    # The nearest descriptor farther than the safe radius is the point's own: positive 2, negative 0.
    found = losses.ranking_loss(
        a, a[:, ::-1], Correspondences(np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]]))
    )
    assert (found.value, found.accuracy) == (3, 0)


def test_the_published_loss():
    """The figures of the published code, which tests/reference/loss.py ran."""
    shapes = (24, 22, 16), (21, 25, 16)
    rng = np.random.default_rng(11)
    maps = [rng.normal(0.3, 1, shape).astype(np.float32) for shape in shapes]
    with np.load(REFERENCE / "loss.npz") as published:
        points = Correspondences(*(published[name].astype(float) for name in ("first", "second")))
        found = losses.ranking_loss(*maps, points)
        assert found.value == pytest.approx(published["value"].item(), rel=1e-6)
        gradients = np.concatenate([found.first.ravel(), found.second.ravel()])
        largest = np.abs(published["gradients"]).max()
        np.testing.assert_allclose(gradients, published["gradients"], rtol=0, atol=5e-6 * largest)


@pytest.mark.parametrize("second", [-1.0, 1.0])
def test_maps_without_a_positive_feature_have_no_loss(second):
    found = losses.ranking_loss(np.full((*SHAPE, 3), -1.0), np.full((*SHAPE, 3), second), correspondences(0))
    assert np.isnan(found.value)
    assert not found.first.any()
    assert not found.second.any()


def test_cells_without_a_positive_feature_have_the_score_0():
    cells = -np.ones((4, 5, 3))
    cells[1, 2] = 1, 2, 3
    scores = losses.soft_scores(cells)
    assert scores.scores[1, 2] == scores.scores.sum() == 1
    assert np.isfinite(scores.backward(np.ones((4, 5)))).all()
    assert not losses.soft_scores(-cells * 0).scores.any()


def test_the_last_layer_is_that_of_the_network(net):
    last = layer.LastLayer(net.arrays["conv4_3/weight"], net.arrays["conv4_3/bias"])
    for name, array in last.arrays.items():
        np.testing.assert_array_equal(array, net.arrays[name])
    image = np.asarray(photograph(72, 64))
    with loop._trunk(net, 1) as before_last:
        found = last.forward(before_last(image))
    expected = net.dense(image, relu=False)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_the_last_layers_gradient():
    rng = np.random.default_rng(0)
    last = layer.LastLayer(rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4))
    cells, by_output = rng.normal(size=(6, 7, 3)), rng.normal(size=(6, 7, 4))
    by_taps, by_bias = last.gradient(cells, by_output)
    for values, gradient in ((last.taps, by_taps), (last.bias, by_bias)):
        for place in np.ndindex(values.shape):
            kept = values[place]
            values[place] = kept + 1
            above = (last.forward(cells) * by_output).sum()
            values[place] = kept
            # Linear: a step of any length gives the derivative.
            assert above - (last.forward(cells) * by_output).sum() == pytest.approx(gradient[place])


def test_adam_goes_downhill_at_the_given_rate():
    values = np.array([3.0, -2.0])
    adam = layer.Adam([values])
    adam.step([2 * values], 0.1)
    np.testing.assert_allclose(values, [2.9, -1.9])
    for _ in range(500):
        adam.step([2 * values], 0.1)
    np.testing.assert_allclose(values, 0, atol=1e-2)


@pytest.fixture
def photos(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        photograph(150 + 10 * number, 140, seed=number).save(paths[-1])
    return paths


@pytest.mark.parametrize("seed", range(4))
def test_views_correspond(photos, monkeypatch, seed):
    """Where the correspondences say, the second view has the grey levels of the first."""
    monkeypatch.setattr(views, "_relit", lambda image, rng, strength: np.asarray(image))
    found = pairs.Photographs(photos, 96).draw(0, np.random.default_rng(seed))
    assert found.first.shape == found.second.shape == (96, 96, 3)
    first, second = found.correspondences
    assert len(first) > 100
    size = np.array(d2np.layers.map_size(96, 96)) - 1
    assert ((second >= 0) & (second <= size)).all()
    a, b = ((cells[:, ::-1] * 4 + pairs.TRUE).astype(np.float32) for cells in (first, second))
    truth, _ = cv2.findHomography(a, b)
    np.testing.assert_allclose(transformed(truth, a), b, atol=1e-3)
    # OpenCV looks up the second view's pixels by their centres, as positions are counted here.
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
    warped = cv2.warpPerspective(found.second, truth, (96, 96), flags=flags)
    inside = cv2.warpPerspective(np.ones_like(found.second), truth, (96, 96), flags=flags) == 1
    assert inside.mean() > 0.3
    # 2 to 3 grey levels; half a pixel off gives 6 to 9.
    assert np.abs(warped.astype(float) - found.first)[inside].mean() < 4


def test_the_same_seed_draws_the_same(photos):
    drawn = [pairs.Photographs(photos, 96).draw(1, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(drawn[0].second, drawn[1].second)
    np.testing.assert_array_equal(drawn[0].correspondences.second, drawn[1].correspondences.second)


def test_photographs_smaller_than_a_view_are_refused(photos):
    with pytest.raises(
        ImageError, match=r"0\.png has 150 x 140 px, less than a view of 192 px: leave it out"
    ):
        pairs.Photographs(photos, 192)


def test_a_photograph_that_is_cut_off_is_found_at_once(photos):
    photos[1].write_bytes(photos[1].read_bytes()[:-5000])
    with pytest.raises(ImageError, match=r"1\.png"):
        pairs.Photographs(photos, 96)
    with pytest.raises(ImageError, match=r"none\.png"):
        pairs.Photographs([*photos[2:], photos[0].with_name("none.png")], 96)


@pytest.mark.parametrize("kind", [pairs.Photographs, Depths])
def test_no_files(kind):
    with pytest.raises(OptionError, match="give one at least"):
        kind([], 96)


def test_disparity(tmp_path):
    image = np.asarray(photograph(160, 150))
    disparity = np.full((150, 160), 8.0)
    disparity[:, :40] = 0
    np.savez(tmp_path / "pair.npz", image1=image, image2=np.roll(image, -8, axis=1), disparity=disparity)
    source = Depths([tmp_path / "pair.npz"], 96)
    found = source.draw(0, np.random.default_rng(3))
    first, second = found.correspondences
    assert len(first) > 50
    moved = 4 * (second - first)
    assert not moved[:, 0].any()
    assert len(np.unique(moved[:, 1])) == 1  # the windows are cut at whole pixels
    x, y = (4 * first[len(first) // 2, ::-1] + 1.5).astype(int)
    u, v = x + int(moved[0, 1]), y
    np.testing.assert_array_equal(found.first[y, x], found.second[v, u])


def test_depth_of_a_camera_that_moves_to_the_right(tmp_path):
    image = np.asarray(photograph(160, 150))
    pose = np.eye(4)
    pose[0, 3] = -0.5
    arrays = {f"depth{n}": np.full((150, 160), 5.0) for n in (1, 2)}
    arrays |= {f"intrinsics{n}": np.array([[100.0, 0, 80], [0, 100, 75], [0, 0, 1]]) for n in (1, 2)}
    np.savez(tmp_path / "p.npz", image1=image, image2=image, pose1=np.eye(4), pose2=pose, **arrays)
    np.savez(tmp_path / "q.npz", image1=image, image2=image, disparity=np.full((150, 160), 10.0))
    by_depth, by_disparity = (
        Depths([tmp_path / name], 96).draw(0, np.random.default_rng(3)) for name in ("p.npz", "q.npz")
    )
    for one, other in zip(by_depth.correspondences, by_disparity.correspondences, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_model_of_colmap(tmp_path):
    """The images' common points are drawn, in windows of photographs that are reduced."""
    photo = photograph(800, 800)
    photo.save(tmp_path / "a.png")
    photo.transform((800, 800), Image.Transform.AFFINE, (1, 0, 40, 0, 1, 24)).save(tmp_path / "b.png")
    points = colmap_model.grid(800, 7)
    moved = points - [40, 24]
    kept = (moved >= 0).all(axis=1)
    colmap_model.write(tmp_path / "sparse", ("a.png", "b.png"), 800, points[kept], moved[kept])
    source = Model(tmp_path / "sparse", tmp_path, 192)
    assert len(source) == 2
    pair = source.draw(0, np.random.default_rng(0))
    first, second = ((cells[:, ::-1] * 4 + pairs.TRUE) for cells in pair.correspondences)
    assert len(first) > 500
    shift = (second - first)[0]
    np.testing.assert_allclose(second - first, np.tile(shift, (len(first), 1)), atol=1e-9)
    # The shift between the windows is that between the images: 40, 24 px reduced by 0.8, less the corners'.
    np.testing.assert_allclose(shift % 1, np.array([-32, -19.2]) % 1, atol=1e-9)
    # Both windows show the same around the point that is farthest from their borders.
    inside = np.minimum(np.minimum(first, 191 - first), np.minimum(second, 191 - second)).min(axis=1)
    shown = []
    for image, place in ((pair.first, first), (pair.second, second)):
        x, y = np.rint(place[inside.argmax()]).astype(int)
        shown.append(image[y - 8 : y + 9, x - 8 : x + 9].ravel())
    assert np.corrcoef(shown)[0, 1] > 0.9


def test_models_that_nothing_can_be_learned_from(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="empty is not a COLMAP model"):
        Model(tmp_path / "empty", tmp_path, 96)
    points = colmap_model.grid(100, 10)
    colmap_model.write(tmp_path / "sparse", ("a.png", "b.png"), 100, points, points)
    with pytest.raises(FormatError, match="no two images have 128 points in common"):
        Model(tmp_path / "sparse", tmp_path, 96)


def test_images_that_are_not_those_of_the_model(tmp_path):
    points = colmap_model.grid(160, 8)
    colmap_model.write(tmp_path / "sparse", ("a.png", "b.png"), 160, points, points)
    photo = photograph(160, 160)
    photo.save(tmp_path / "a.png")

    def refused(match):
        with pytest.raises(ImageError, match=match):
            Model(tmp_path / "sparse", tmp_path, 96)

    refused(r"b\.png")  # there is none
    (tmp_path / "b.png").write_bytes(b"nothing")
    refused(r"b\.png")
    photo.save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-5000])
    refused(r"b\.png")
    photo.resize((160, 120)).save(tmp_path / "b.png")
    refused(r"b\.png has 160 x 120 px, its camera in the model 160 x 160 px: give the image")


def test_images_that_were_resized_after_colmap(tmp_path):
    """Positions are in pixels of the camera, whatever the size of the file."""
    points = colmap_model.grid(640, 16) + 1.5
    colmap_model.write(tmp_path / "sparse", ("a.png", "b.png"), 640, points, points)
    photograph(640, 640).save(tmp_path / "a.png")
    photograph(320, 320).save(tmp_path / "b.png")
    first, second = Model(tmp_path / "sparse", tmp_path, 640).draw(0, np.random.default_rng(0))[2]
    assert len(first) > 1000
    np.testing.assert_allclose((4 * second + pairs.TRUE + 0.5) * 2, 4 * first + pairs.TRUE + 0.5)


def test_windows_with_few_common_points_are_drawn_again(tmp_path):
    """A dense patch, and as many points where a window has too few of them."""
    points = np.concatenate([colmap_model.grid(640, 32), colmap_model.grid(160, 8)])
    colmap_model.write(tmp_path / "sparse", ("a.png", "b.png"), 640, points, points)
    for name in ("a.png", "b.png"):
        photograph(640, 640).save(tmp_path / name)
    source, rng = Model(tmp_path / "sparse", tmp_path, 160), np.random.default_rng(0)
    found = [len(source.draw(n % 2, rng).correspondences.first) for n in range(20)]
    assert min(found) >= pairs.FEWEST


def archive(**changes):
    """Arrays of a pair: those given, and without a disparity the depths that two cameras at one place see."""
    arrays = {f"image{n}": np.asarray(photograph(160, 150)) for n in (1, 2)}
    if "disparity" in changes:
        return arrays | changes
    for n in (1, 2):
        arrays[f"depth{n}"] = np.full((150, 160), 5.0)
        arrays[f"intrinsics{n}"] = np.array([[100.0, 0, 80], [0, 100, 75], [0, 0, 1]])
        arrays[f"pose{n}"] = np.eye(4)
    return arrays | changes


@pytest.mark.parametrize(
    ("depth", "hidden"), [(4.8, False), (5.2, False), (4.7, True), (5.3, True), (2, True), (np.nan, True)]
)
def test_points_hidden_in_the_second_image_are_left_out(tmp_path, depth, hidden):
    """They are where its depth differs by more than 5 %, here left of column 62."""
    depths = np.full((150, 160), 5.0)
    depths[:, :62] = depth
    np.savez(tmp_path / "p.npz", **archive(depth2=depths))
    first, second = Depths([tmp_path / "p.npz"], 160).draw(0, np.random.default_rng(0)).correspondences
    np.testing.assert_allclose(first, second, atol=1e-9)
    rows, columns = d2np.layers.map_size(150, 160)
    seen = np.arange(columns) * 4 + pairs.TRUE > 62 if hidden else np.ones(columns, bool)
    np.testing.assert_array_equal(np.unique(first[:, 1]), np.flatnonzero(seen))
    assert len(first) == rows * seen.sum()


@pytest.mark.parametrize("kind", [pairs.Photographs, Depths])
def test_published_positions(tmp_path, monkeypatch, kind):
    """Whole cells, the first with its centre at 1.5: cell c is seen at 2 (4 c + 1.5), nearest to cell 2 c."""
    photo = np.asarray(photograph(160, 150))
    monkeypatch.setattr(pairs, "views", lambda *_: views.Views(photo, photo, np.diag([2.0, 2, 1])))
    # The principal points are the first pixel's centre, and the second focal length is twice the first.
    first, second = (np.array([[f, 0, 0.5], [0, f, 0.5], [0, 0, 1]]) for f in (100.0, 200.0))
    np.savez(tmp_path / "p.npz", **archive(intrinsics1=first, intrinsics2=second))
    Image.fromarray(photo).save(tmp_path / "p.png")
    name, size = ("p.png", 96) if kind is pairs.Photographs else ("p.npz", 160)
    source = kind([tmp_path / name], size, published=True)
    assert source.name.endswith("published positions")
    first, second = source.draw(0, np.random.default_rng(0)).correspondences
    assert len(first) > 100
    np.testing.assert_array_equal(first, np.rint(first))
    np.testing.assert_array_equal(second, 2 * first)


def test_published_positions_of_a_model(tmp_path):
    """4 and 12 pixels are nearest to the cells at 5.5 and 13.5."""
    points = colmap_model.grid(150, 8)
    colmap_model.write(tmp_path / "sparse", ("a.png", "b.png"), 160, points + 4, points + 12)
    for name in ("a.png", "b.png"):
        photograph(160, 160).save(tmp_path / name)
    source = Model(tmp_path / "sparse", tmp_path, 160, published=True)
    first, second = source.draw(0, np.random.default_rng(0)).correspondences
    assert len(first) > 200
    np.testing.assert_array_equal(first % 2, 1)
    np.testing.assert_array_equal(second, first + 2)


IMAGE = np.zeros((150, 160, 3), np.uint8)
SINGULAR = np.diag([100.0, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({}, r"image1 is missing, expected is \(H, W, 3\) uint8"),
        (archive(image1=IMAGE[..., 0]), r"image1 is \(150, 160\) uint8, expected is \(H, W, 3\) uint8"),
        (archive(image1=np.zeros((150, 160, 4), np.uint8)), r"image1 is \(150, 160, 4\) uint8"),
        (archive(image2=IMAGE.transpose(2, 0, 1)), r"image2 is \(3, 150, 160\) uint8"),
        (archive(image2=IMAGE / 255), r"image2 is \(150, 160, 3\) float64"),
        (archive(image1=IMAGE[:50]), r"image1 is \(50, 160, 3\) uint8"),
        ({"image1": IMAGE, "image2": IMAGE}, r"depth1 is missing, expected is \(150, 160\) numbers"),
        (archive(disparity=np.full((150, 160), "1")), r"disparity is \(150, 160\) <U1"),
        (archive(disparity=np.ones((75, 80))), r"disparity is \(75, 80\) float64"),
        (archive(disparity=np.full((150, 160), np.nan)), "no value of disparity is above 0"),
        (archive(disparity=np.full((150, 160), -8.0)), "no value of disparity is above 0"),
        (archive(depth1=np.zeros((150, 160))), "no value of depth1 is above 0"),
        (archive(depth2=np.ones((150, 160, 1))), r"depth2 is \(150, 160, 1\) float64"),
        (archive(intrinsics1=SINGULAR), r"intrinsics1 is .* expected is \(3, 3\), finite and invertible"),
        (archive(pose1=np.eye(3)), r"pose1 is \(3, 3\) float64, expected is \(4, 4\)"),
        (archive(pose2=np.full((4, 4), np.nan)), "pose2 is .* finite and invertible"),
    ],
)
def test_archives_of_other_arrays(tmp_path, arrays, problem):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(FormatError, match=rf"p\.npz is not a pair with depth or disparity: {problem}"):
        Depths([tmp_path / "p.npz"], 96)


def damage(path, cut=None, flipped=None):
    data = bytearray(path.read_bytes())
    if flipped is not None:
        data[flipped] ^= 0xFF
    path.write_bytes(data[:cut])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives(tmp_path, save):
    path = tmp_path / "p.npz"

    def refused(problem=""):
        match = rf"p\.npz cannot be read as a \.npz archive: {problem}"
        with pytest.raises(FormatError, match=match) as found:
            Depths([path], 96)
        assert "\n" not in str(found.value)

    refused("No such file")
    for size in (0, 100, 5000):
        save(path, **archive())
        damage(path, cut=size)
        refused("it is none, or not the whole of one")
    for place in range(60, 5000, 230):
        save(path, **archive())
        damage(path, flipped=place)
        refused()
    with path.open("wb") as stream:
        np.save(stream, IMAGE)
    refused("it is none")
    np.savez(path, disparity=np.array({}))
    refused("Object arrays")


def test_an_archive_that_is_damaged_later(tmp_path):
    np.savez(tmp_path / "p.npz", **archive())
    source = Depths([tmp_path / "p.npz"], 96)
    damage(tmp_path / "p.npz", cut=5000)
    with pytest.raises(FormatError, match=r"p\.npz cannot be read"):
        source.draw(0, np.random.default_rng(0))


def training(net, photos, iterations=6, **settings):
    return loop.Training(net, pairs.Photographs(photos, 96), loop.Settings(iterations, warm_up=2, **settings))


def test_a_training_that_goes_on_gives_the_same_numbers(net, photos, tmp_path):
    whole = training(net, photos)
    losses = [value for value, _ in whole.run(1)]
    assert len(losses) == 6
    assert np.isfinite(losses).any()
    stopped = training(net, photos)
    for number, _ in enumerate(stopped.run(1), 1):
        if number == 3:
            break
    stopped.save(tmp_path / "checkpoint.npz")
    resumed = training(net, photos)
    resumed.load(tmp_path / "checkpoint.npz")
    assert resumed.iteration == 3
    for _ in resumed.run(1):
        pass
    np.testing.assert_array_equal(resumed.history, whole.history)
    for name, array in whole.trained().arrays.items():
        np.testing.assert_array_equal(resumed.trained().arrays[name], array)
    changed = {
        name for name, array in whole.trained().arrays.items() if not np.array_equal(array, net.arrays[name])
    }
    assert changed == {"conv4_3/weight", "conv4_3/bias"}


def test_a_checkpoint_of_another_training_is_refused(net, photos, tmp_path):
    training(net, photos).save(tmp_path / "checkpoint.npz")
    with pytest.raises(FormatError, match="other settings, photographs or weights"):
        training(net, photos, seed=1).load(tmp_path / "checkpoint.npz")


def damaged(content):
    """Yield what a checkpoint may have become."""
    yield b"nothing"
    yield b""
    yield content[:5000]
    yield content[: len(content) // 2]
    for place in (len(content) // 4, len(content) // 2):
        yield content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_damaged_checkpoint_changes_nothing(net, photos, tmp_path):
    path = tmp_path / "checkpoint.npz"
    begun = training(net, photos)
    for _ in zip(begun.run(1), range(2), strict=False):
        pass
    begun.save(path)
    content = path.read_bytes()
    other = training(net, photos)
    for changed in damaged(content):
        path.write_bytes(changed)
        with pytest.raises(
            FormatError, match=r"checkpoint\.npz is not a checkpoint of d2np train, or damaged"
        ):
            other.load(path)
        assert (other.iteration, other.adam.steps) == (0, 0)
        np.testing.assert_array_equal(other.layer.arrays["conv4_3/bias"], net.arrays["conv4_3/bias"])
    with np.load(io.BytesIO(content)) as saved:
        arrays = dict(saved)
    np.savez(path, **{**arrays, "state": np.array("5")})
    with pytest.raises(FormatError, match="not a checkpoint"):
        other.load(path)
    np.savez(path, **{**arrays, "bias": np.zeros(3)})
    with pytest.raises(FormatError, match="not a checkpoint"):
        other.load(path)
    assert other.iteration == 0


def test_a_pair_without_scores_is_left_out(photos, tmp_path):
    """The analytic weights find nothing in a white image."""
    Image.new("RGB", (150, 150), "white").save(tmp_path / "white.png")
    net = d2np.Net.load("analytic")
    run = training(net, [tmp_path / "white.png", photos[0]], iterations=12)
    for _ in run.run(1):
        pass
    learned = np.isfinite(run.history).all(axis=1)
    assert 0 < learned.sum() < 12
    assert run.adam.steps == learned.sum()
    assert all(np.isfinite(array).all() for array in run.layer.arrays.values())
    assert np.isfinite(run.history).any(axis=1).sum() == learned.sum()


def test_the_number_of_threads_changes_nothing(photos):
    """BLAS shares sums as long as those of 140 px among threads."""
    program = (
        "import hashlib, sys; from pathlib import Path; import d2np; from d2np import training as t; "
        "pairs = t.Photographs([Path(p) for p in sys.argv[1:]], 140); "
        "run = t.Training(d2np.Net.load('analytic'), pairs, t.Settings(2)); list(run.run()); "
        "print(hashlib.sha256(run.layer.taps.tobytes()).hexdigest())"
    )
    sums = {
        subprocess.run(
            [sys.executable, "-c", program, *map(str, photos)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            check=True, capture_output=True, text=True,
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(sums) == 1


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"rate": 0}, {"rate": 2}, {"warm_up": -1}])
def test_senseless_settings(settings):
    with pytest.raises(OptionError):
        loop.Settings(**settings)


def test_the_rate_rises_and_falls():
    settings = loop.Settings(iterations=100, rate=0.01, warm_up=10)
    rates = [settings.rate_at(iteration) for iteration in range(100)]
    assert max(rates) == pytest.approx(0.01, rel=0.05)
    assert 8 <= rates.index(max(rates)) <= 10
    assert rates[-1] < 1e-4 * 0.01 * 100
