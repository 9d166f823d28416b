import io
import math
import pickle
import threading

import naive
import numpy as np
import pytest
from PIL import Image

import d2np
from d2np import reference
from d2np.layers import PARAMETER_SHAPES
from d2np.network import stages
from d2np.weights import Provenance

SCALES = (0.5, 1.0, 2.0)


def test_what_a_net_says_of_itself(net):
    assert net.parameter_count == 7_635_264
    assert len(net.layers) == 22
    assert "7,635,264" in repr(net)
    assert sum(array.size for array in net.arrays.values()) == net.parameter_count
    with pytest.raises(TypeError):
        net.arrays["conv1_1/bias"] = None


# Against the naive network


@pytest.fixture(scope="module")
def other_nets(make_weights):
    """Both algorithms with weights of another seed."""
    arrays = make_weights(3)
    return arrays, [d2np.Net(arrays, algorithm=name) for name in ("winograd", "direct")]


@pytest.mark.parametrize(
    "options",
    [{}, {"relu": False}, {"preprocessing": "torch"}, {"scales": SCALES}, {"scales": (0.7, 1.3)}],
    ids=str,
)
def test_features_equal_the_reference(other_nets, make_image, options):
    (arrays, nets), image = other_nets, make_image(37, 45, seed=5)
    same_options = {("last_relu" if name == "relu" else name): value for name, value in options.items()}
    keypoints, scores, descriptors = reference.extract(image.astype(np.float64), arrays, **same_options)
    assert len(keypoints) >= 3
    for net in nets:
        found = net(image, **options)
        pairs = naive.pair_up(found.keypoints, keypoints)
        assert max(len(found), len(keypoints)) - len(pairs) <= math.ceil(len(keypoints) / 200)
        a, b = pairs.T
        np.testing.assert_allclose(found.scores[a], scores[b], rtol=1e-4)
        assert ((found.descriptors[a] * descriptors[b]).sum(1) >= 0.9999).all()


def test_strength_equals_the_reference(net, weights_arrays, image):
    cells = reference.feature_map(
        reference.preprocess(image.astype(np.float64)), weights_arrays, last_relu=False
    )
    np.testing.assert_allclose(net.strength(image), reference.strength(cells), rtol=1e-4)


def test_both_algorithms_agree(weights_arrays, net, image):
    direct = d2np.Net(weights_arrays, algorithm="direct").dense(image)
    found = net.dense(image)
    np.testing.assert_allclose(found, direct, rtol=0, atol=1e-5 * abs(direct).max())
    # Otherwise one of them was not used.
    assert (found != direct).any()


# Smallest and dullest images


@pytest.mark.parametrize("size", [(8, 8), (8, 9), (9, 8), (8, 200), (11, 11)])
def test_smallest_images(net, make_image, size):
    image = make_image(*size)
    assert net.dense(image).shape[2] == 512
    for detector in ("d2", "strength"):
        found = net(image, detector=detector)
        assert np.isfinite(found.descriptors).all()
        assert np.isfinite(found.keypoints).all()
    assert net.dense(image).shape[:2] == net.strength(image).shape


@pytest.mark.parametrize("method", ["__call__", "dense", "strength", "describe"])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 1), (7, 2000)])
def test_too_small_images(net, size, method):
    arguments = [[[1, 1]]] if method == "describe" else []
    with pytest.raises(d2np.ImageError, match=r"needs 8 px on either side"):
        getattr(net, method)(np.zeros(size, np.uint8), *arguments)


def test_too_small_at_one_of_the_scales(net, make_image):
    with pytest.raises(d2np.ImageError, match=r"20 x 7 px at scale 0.5"):
        net(make_image(15, 40), scales=SCALES)
    assert net(make_image(16, 40), scales=SCALES).image_size == (40, 16)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("options", [{}, {"scales": SCALES}, {"detector": "strength"}], ids=str)
def test_flat_images(net, value, options):
    found = net(np.full((40, 48, 3), value, np.uint8), **options)
    assert np.isfinite(found.keypoints).all()
    assert np.isfinite(found.scores).all()
    assert np.isfinite(found.descriptors).all()


def test_a_net_that_finds_nothing(weights_arrays, image):
    dead = dict(weights_arrays)
    dead["conv4_3/weight"], dead["conv4_3/bias"] = np.zeros((512, 512, 3, 3)), np.zeros(512)
    net = d2np.Net(dead)
    for scales in ((1,), SCALES):
        found = net(image, scales=scales)
        assert found.keypoints.shape == (0, 3)
        assert found.scores.shape == (0,)
        assert found.descriptors.shape == (0, 512)
        assert found.image_size == (83, 61)


# Options


@pytest.fixture(scope="module", params=[(1.0,), SCALES], ids=["one scale", "three scales"])
def scales(request):
    return request.param


@pytest.fixture(scope="module")
def whole(net, image, scales):
    found = net(image, scales=scales)
    assert len(found) > 5
    return found


def test_a_mask_removes_and_changes_nothing_else(net, image, scales, whole, assert_same_features):
    mask = np.random.RandomState(0).rand(61, 83) < 0.5
    x, y = np.floor(whole.keypoints[:, :2].T + 0.5).astype(int)
    inside = mask[np.clip(y, 0, 60), np.clip(x, 0, 82)]
    assert 0 < inside.sum() < len(whole)
    for form in (mask, mask.astype(np.uint8) * 255, mask.astype(float), mask.tolist()):
        assert_same_features(net(image, scales=scales, mask=form), whole.select(inside))


def test_masks_of_everything_and_nothing(net, image, scales, whole, assert_same_features):
    assert_same_features(net(image, scales=scales, mask=np.ones((61, 83))), whole)
    nothing = net(image, scales=scales, mask=np.zeros((61, 83)))
    assert len(nothing) == 0
    assert nothing.descriptors.shape == (0, 512)


def test_a_mask_is_in_pixels_of_the_given_image(net, image, assert_same_features):
    mask = np.zeros((61, 83), bool)
    mask[:, 40:] = True
    found, all_ = net(image, max_edge=60, mask=mask), net(image, max_edge=60)
    assert 0 < len(found) < len(all_)
    assert_same_features(found, all_.select(all_.keypoints[:, 0] >= 39.5))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_masks_in_files(net, image, tmp_path, mode, assert_same_features):
    """Every value above black counts, however dark it is, and an alpha channel does not."""
    mask = np.zeros((61, 83), np.uint8)
    mask[:, 40:] = 255 if mode == "1" else 1
    drawn = Image.fromarray(mask.astype(np.uint16)) if mode == "I;16" else Image.fromarray(mask).convert(mode)
    if mode == "P":
        drawn.putpalette([0, 0, 0, 9, 9, 9])
    drawn.save(tmp_path / "mask.png")
    expected = net(image, mask=mask)
    assert 0 < len(expected) < len(net(image))
    content = (tmp_path / "mask.png").read_bytes()
    for form in (tmp_path / "mask.png", str(tmp_path / "mask.png"), content, io.BytesIO(content)):
        assert_same_features(net(image, mask=form), expected)


def test_a_mask_is_turned_as_its_own_exif_says(net, image, tmp_path, assert_same_features):
    mask = np.zeros((83, 61), np.uint8)
    mask[:20] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(mask).save(tmp_path / "mask.png", exif=exif)
    found = net(image, mask=tmp_path / "mask.png", orient=True)
    assert_same_features(found, net(image, mask=np.rot90(mask, -1)))
    with pytest.raises(
        d2np.ImageError, match=r"mask\.png: .* its image's size 83 x 61 px; it has 61 x 83 px"
    ):
        net(image, mask=tmp_path / "mask.png")


@pytest.mark.parametrize("mask", [np.ones((83, 61)), np.ones((61, 83, 1)), np.ones(61), 1])
def test_masks_of_another_shape(net, image, mask):
    with pytest.raises(d2np.ImageError, match=r"mask must have the image's shape \(61, 83\)"):
        net(image, mask=mask)


@pytest.mark.parametrize("k", [0, 1, 4, 10_000])
def test_max_keypoints_are_the_best_of_all(net, image, scales, whole, k, assert_same_features):
    best = np.argsort(-whole.scores, kind="stable")[:k]
    assert_same_features(net(image, scales=scales, max_keypoints=k), whole.select(best))


def test_max_keypoints_among_those_inside_the_mask(net, image, scales, whole, assert_same_features):
    mask = np.zeros((61, 83))
    mask[:30] = 1
    inside = net(image, scales=scales, mask=mask)
    best = np.argsort(-inside.scores, kind="stable")[:2]
    assert_same_features(net(image, scales=scales, mask=mask, max_keypoints=2), inside.select(best))


@pytest.mark.parametrize("detector", ["d2", "strength"])
def test_spread_keypoints(net, make_image, monkeypatch, scales, detector, assert_same_features):
    """Of all scales together, of those that a mask leaves, and in whatever pieces they are found."""
    monkeypatch.setattr(stages, "tiles_at_a_time", lambda *_: 16)
    image = make_image(120, 60)
    mask = np.ones((120, 60))
    mask[70:80] = 0
    options = {"scales": scales, "detector": detector, "mask": mask}
    whole = net(image, **options)
    found = net(image, **options, max_keypoints=16, spread=True, threads=1)
    best = naive.evenly(whole.keypoints, whole.scores, 16, (60, 120))
    assert_same_features(found, whole.select(best))
    assert_same_features(net(image, **options, max_keypoints=16, spread=True, threads=2), found)
    assert not np.array_equal(best, naive.strongest(whole.scores, 16))


def test_scales_in_any_order(net, image, assert_same_features):
    assert_same_features(net(image, scales=[2, 0.5, 1]), net(image, scales=SCALES))


def test_scales_of_keypoints(net, image):
    found = net(image, scales=SCALES)
    assert set(found.keypoints[:, 2]) <= {2, 1, 0.5}
    assert (np.diff(found.keypoints[:, 2]) <= 0).all()
    assert len(set(found.keypoints[:, 2])) > 1


@pytest.fixture(scope="module")
def blur_net():
    """A network whose first channel is the blurred brightness: keypoints are the middles of bright dots."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in PARAMETER_SHAPES.items()}
    blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for name in arrays:
        if name.endswith("weight"):
            arrays[name][0, 0] = blur
    arrays["conv1_1/weight"][0] = blur / 3
    arrays["conv1_1/bias"][:] = 120
    return d2np.Net(arrays)


def dots(height, width, size):
    """An image of smooth dots of the given radius, and their middles, (N, 2) x, y.

    They are at places of all kinds within a cell, and symmetric about the image's centre: what moves one of
    them to the left moves its counterpart to the right, so the mean shows offsets of positions alone.
    """
    ends = width - 5 * size, height / 2 - 3.5 * size
    x, y = np.meshgrid(*(np.arange(5.3 * size, end, 8.13 * size) for end in ends))
    middles = np.column_stack(
        [(x + 0.6 * size * np.sin(7 * y)).ravel(), (y + 0.6 * size * np.sin(5 * x)).ravel()]
    )
    middles = np.concatenate([middles, (width - 1, height - 1) - middles])
    across = np.exp(-((np.arange(width) - middles[:, :1]) ** 2) / (2 * size**2))
    down = np.exp(-((np.arange(height) - middles[:, 1:]) ** 2) / (2 * size**2))
    return np.clip(200 * down.T @ across, 0, 255), middles


@pytest.mark.parametrize("shrink", [1, 1.25, 2, 4])
@pytest.mark.parametrize(
    ("scales", "width"), [((0.5,), 512), ((1,), 256), ((2,), 128), (SCALES, 256)], ids=str
)
def test_centered_keypoints_are_where_the_dots_are(blur_net, shrink, scales, width):
    # All levels are whole numbers of cells wide and high.
    size = width / 50
    image, middles = dots(int(width * shrink) * 13 // 16, int(width * shrink), size * shrink)
    found = blur_net(image, scales=scales, max_edge=width, centered=True)
    offsets = found.keypoints[:, np.newaxis, :2] - middles
    nearest = np.hypot(*offsets.T).argmin(0)
    assert len(found) > 12
    np.testing.assert_allclose(offsets[np.arange(len(nearest)), nearest].mean(0), 0, atol=0.05)


def test_centered_changes_positions_only(net, image, scales, whole):
    found = net(image, scales=scales, centered=True)
    np.testing.assert_array_equal(found.scores, whole.scores)
    np.testing.assert_array_equal(found.descriptors, whole.descriptors)


def test_preprocessing_is_that_of_the_weights(net, image, weights_arrays, assert_same_features):
    assert net.preprocessing == "caffe"
    torch = d2np.Net(weights_arrays, provenance=Provenance("", "", "", preprocessing="torch"))
    assert torch.preprocessing == pickle.loads(pickle.dumps(torch)).preprocessing == "torch"
    assert_same_features(torch(image), net(image, preprocessing="torch"))
    assert_same_features(torch(image, preprocessing="caffe"), net(image))
    for name in ("dense", "strength"):
        expected = getattr(net, name)(image, preprocessing="torch")
        np.testing.assert_array_equal(getattr(torch, name)(image), expected)
    np.testing.assert_array_equal(
        torch.describe(image, [(40, 30)])[0], net.describe(image, [(40, 30)], preprocessing="torch")[0]
    )


# The ranking by strength


def test_the_strength_detector_ranks_every_cell(net, image):
    strength = net.strength(image)
    found = net(image, detector="strength")
    assert len(found) == strength.size
    assert (np.diff(found.scores) <= 0).all()
    columns, rows = ((found.keypoints[:, :2] - 1.5) / 4).T
    np.testing.assert_array_equal(found.scores, strength[rows.astype(int), columns.astype(int)])
    assert len({*zip(rows, columns, strict=True)}) == strength.size
    assert (found.keypoints[:, 2] == 1).all()


def test_strongest_cells_with_mask_and_limit(net, image, assert_same_features):
    mask = np.zeros((61, 83))
    mask[:, :40] = 1
    all_ = net(image, detector="strength")
    found = net(image, detector="strength", mask=mask, max_keypoints=7)
    assert_same_features(found, all_.select(np.flatnonzero(all_.keypoints[:, 0] < 39.5)[:7]))


@pytest.mark.parametrize("relu", [True, False])
def test_descriptors_of_strong_cells(net, image, relu):
    found = net(image, detector="strength", max_keypoints=9, relu=relu)
    expected, valid = net.describe(image, found.keypoints, relu=relu)
    assert valid.all()
    np.testing.assert_allclose(found.descriptors, expected, atol=1e-5)
    assert (found.descriptors.min() < 0) != relu


# Descriptors at positions of one's own


@pytest.mark.parametrize(
    "options",
    [{}, {"relu": False}, {"max_edge": 60}, {"centered": True}, {"preprocessing": "torch"}],
    ids=str,
)
def test_describe_at_keypoints_is_their_descriptor(net, image, options):
    found = net(image, **options)
    descriptors, valid = net.describe(image, found.keypoints, **options)
    assert valid.all()
    assert len(found) > 3
    np.testing.assert_allclose(descriptors, found.descriptors, atol=1e-4)


def test_describe_in_the_middle_of_a_cell(net, image):
    dense = net.dense(image)
    descriptors, valid = net.describe(image, [[1.5 + 4 * 3, 1.5 + 4 * 5], [1.5, 1.5]])
    assert valid.all()
    np.testing.assert_allclose(descriptors, reference.l2_normalize(dense[[5, 0], [3, 0]]), atol=1e-5)


def test_describe_outside_the_map(net, image):
    height, width = net.dense(image).shape[:2]
    right, bottom = 1.5 + 4 * (width - 1), 1.5 + 4 * (height - 1)
    inside = [[1.5, 1.5], [right, bottom]]
    outside = [
        [1.4, 9],
        [9, 1.4],
        [right + 0.1, 9],
        [9, bottom + 0.1],
        [-50, 9],
        [9, 1e9],
        [np.nan, 9],
        [9, np.inf],
    ]
    descriptors, valid = net.describe(image, np.array(inside + outside))
    np.testing.assert_array_equal(valid, [True] * 2 + [False] * len(outside))
    np.testing.assert_allclose(np.linalg.norm(descriptors[:2], axis=1), 1, atol=1e-5)
    assert (descriptors[2:] == 0).all()


def test_describe_far_beyond_float32(net, image):
    _, valid = net.describe(image, [[1e300, 5], [-1e300, 5]])
    assert not valid.any()


@pytest.mark.parametrize("xy", [[], np.empty((0, 2)), np.empty((0, 3), np.float32)])
def test_describe_nothing(net, image, xy):
    descriptors, valid = net.describe(image, xy)
    assert descriptors.shape == (0, 512)
    assert valid.shape == (0,)


@pytest.mark.parametrize("xy", [[1, 2], [[1], [2]], [["a", "b"]], np.zeros((1, 2, 2)), None])
def test_senseless_positions(net, image, xy):
    with pytest.raises(d2np.OptionError, match="xy"):
        net.describe(image, xy)


# Weights


def test_saved_and_loaded(net, image, tmp_path, assert_same_features):
    path = tmp_path / "net.h5"
    net.save(path)
    again = d2np.Net.load(path)
    assert list(again.arrays) == list(net.arrays)
    for name, array in net.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    assert_same_features(again(image, scales=SCALES), net(image, scales=SCALES))


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
def test_pickled(weights_arrays, image, algorithm, assert_same_features):
    net = d2np.Net(weights_arrays, algorithm=algorithm)
    assert_same_features(pickle.loads(pickle.dumps(net))(image), net(image))


def test_arrays_of_other_layouts_and_types(weights_arrays, net, image, assert_same_features):
    odd = {
        name: np.asfortranarray(array).astype(np.float64) for name, array in reversed(weights_arrays.items())
    }
    assert_same_features(d2np.Net(odd)(image), net(image))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv3_2/bias": None}, "conv3_2/bias"),
        ({"conv5_1/weight": np.zeros((512, 512, 3, 3))}, "unexpected conv5_1/weight"),
        ({"conv1_1/weight": np.zeros((64, 3, 3))}, r"conv1_1/weight: expected shape \(64, 3, 3, 3\)"),
        ({"conv2_1/bias": np.zeros(64)}, "conv2_1/bias: expected shape"),
        ({"conv2_1/bias": np.full(128, np.nan)}, "conv2_1/bias: expected finite"),
        ({"conv2_1/bias": np.full(128, 1e300)}, "conv2_1/bias: expected finite"),
        ({"conv2_1/bias": np.zeros(128, int)}, "conv2_1/bias: expected real floating-point"),
    ],
)
def test_senseless_weights(weights_arrays, change, message):
    with pytest.raises(d2np.WeightsError, match=message):
        d2np.Net({**weights_arrays, **change})


def test_missing_weights(weights_arrays):
    some = {name: array for name, array in weights_arrays.items() if name != "conv4_3/weight"}
    with pytest.raises(d2np.WeightsError, match="missing conv4_3/weight"):
        d2np.Net(some)
    for nothing in ({}, [], None):
        with pytest.raises(d2np.WeightsError):
            d2np.Net(nothing)


@pytest.mark.parametrize("threads", [0, 1.5])
def test_senseless_numbers_of_threads(net, image, threads):
    with pytest.raises(d2np.OptionError, match="threads"):
        net(image, threads=threads)


def test_an_unknown_algorithm(weights_arrays):
    with pytest.raises(d2np.OptionError, match="winograd, direct"):
        d2np.Net(weights_arrays, algorithm="fft")


@pytest.mark.parametrize("detector", ["d2", "strength"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0)])
def test_a_stream_gives_what_the_call_gives(net, make_image, monkeypatch, detector, scales):
    # So small an image would come in one piece.
    monkeypatch.setattr(stages, "tiles_at_a_time", lambda *_: 16)
    image = make_image(200, 90)
    mask = np.ones((200, 90), bool)
    mask[50:60] = False
    options = {"detector": detector, "scales": scales, "mask": mask}
    whole = net(image, **options)
    pieces = list(net.stream(image, **options))
    assert len(pieces) > 1
    assert all(piece.image_size == (90, 200) for piece in pieces)
    pieces = [piece for piece in pieces if len(piece)]
    # Each piece is of one scale; those of one scale come from the top to the bottom.
    assert all(len(np.unique(piece.keypoints[:, 2])) == 1 for piece in pieces)
    for scale in np.unique(whole.keypoints[:, 2]):
        streamed = [piece for piece in pieces if piece.keypoints[0, 2] == scale]
        chosen = whole.select(whole.keypoints[:, 2] == scale)
        keypoints = np.concatenate([piece.keypoints for piece in streamed])
        descriptors = np.concatenate([piece.descriptors for piece in streamed])
        if detector == "strength":  # the call ranks them
            order = np.argsort(-np.concatenate([piece.scores for piece in streamed]), kind="stable")
            keypoints, descriptors = keypoints[order], descriptors[order]
        np.testing.assert_array_equal(keypoints, chosen.keypoints)
        np.testing.assert_array_equal(descriptors, chosen.descriptors)


def test_a_stream_that_is_left_early_leaves_no_threads(net, make_image, monkeypatch):
    monkeypatch.setattr(stages, "tiles_at_a_time", lambda *_: 16)
    before = threading.active_count()
    stream = net.stream(make_image(200, 60), threads=3)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_a_streams_options_are_checked(net, image):
    with pytest.raises(d2np.OptionError, match="detector"):
        next(net.stream(image, detector="sift"))
    with pytest.raises(d2np.OptionError, match="max_keypoints"):
        next(net.stream(image, max_keypoints=5))


def test_every_call_passes_the_limit_on_pixels_on(net, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    calls = (
        net,
        net.dense,
        net.strength,
        net.profile,
        lambda image, **options: net.describe(image, [[20, 20]], **options),
        lambda image, **options: list(net.stream(image, **options)),
    )
    for call in calls:
        with pytest.raises(d2np.ImageError, match="max_pixels=3000"):
            call(path)
        call(path, max_pixels=3000)
