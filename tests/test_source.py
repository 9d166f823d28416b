import itertools

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2np
from d2np import image
from d2np.source import open_source

UNLIMITED = {"max_edge": None, "max_sum_edges": None}


class Recorder:
    """Looks like an array, and tells which rows were asked for."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.asked = []

    def __getitem__(self, rows):
        self.asked.append(rows)
        return self.array[rows]


def of_kind(kind, height, width):
    array = np.random.RandomState(0).randint(0, 256, (height, width, 4)).astype(np.uint8)
    if kind == "grey":
        return array[:, :, 0]
    if kind == "float":
        return array[:, :, :3].astype(np.float64)
    if kind == "uint16":
        return array[:, :, 0].astype(np.uint16) * 257
    return array if kind == "rgba" else array[:, :, :3]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.sampled_from(["grey", "rgb", "rgba", "float", "uint16"]),
    st.integers(1, 30),
    st.integers(1, 9),
    st.lists(st.integers(0, 30), max_size=5),
)
def test_rows_are_those_of_the_whole(kind, height, width, cuts):
    array = of_kind(kind, height, width)
    whole = image.open_picture(array)
    bounds = [0, *sorted(min(cut, height) for cut in cuts), height]
    for picture in (array, Recorder(array)):
        with open_source(picture, **UNLIMITED) as source:
            assert source.given == source.shape == (height, width)
            for first, last in itertools.pairwise(bounds):
                if first < last:
                    rows = source.read(first, last)
                    assert rows.dtype == whole.dtype
                    np.testing.assert_array_equal(rows, whole[first:last])


def test_only_the_rows_asked_for_are_read():
    recorder = Recorder(of_kind("rgb", 1000, 8))
    open_source(recorder, **UNLIMITED).read(500, 510)
    assert recorder.asked == [slice(500, 510)]


def test_what_has_to_be_shrunk_is_read_whole():
    array = of_kind("rgb", 60, 40)
    source = open_source(Recorder(array), max_edge=30)
    assert (source.given, source.shape) == ((60, 40), (30, 20))
    expected = image.shrink(array, max_edge=30)
    np.testing.assert_array_equal(source.read(3, 9), expected[3:9])


def test_memmaps_and_hdf5_datasets_give_the_features_of_the_array(
    net, make_picture, tmp_path, assert_same_features
):
    picture = make_picture(90, 41)
    expected = net(picture)
    mapped = np.memmap(tmp_path / "picture.raw", np.uint8, "w+", shape=picture.shape)
    mapped[:] = picture
    assert_same_features(net(mapped), expected)
    with h5py.File(tmp_path / "picture.h5", "w") as file:
        file["picture"] = picture
        assert_same_features(net(file["picture"]), expected)
        np.testing.assert_array_equal(image.open_picture(file["picture"]), picture)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 5, 2), np.uint8), "shape"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.zeros((5, 5, 3), np.int32), "uint8"),
    ],
)
def test_what_can_be_no_picture_is_refused_at_once(array, message):
    recorder = Recorder(array)
    with pytest.raises(d2np.ImageError, match=message):
        open_source(recorder)
    assert recorder.asked == []


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (1e6, "0..255")])
def test_bad_values_are_found_where_they_are(net, value, message):
    array = np.full((64, 20, 3), 100.0)
    array[50, 3, 1] = value
    with pytest.raises(d2np.ImageError, match=message):
        net(Recorder(array))


def test_a_dark_part_of_a_float_picture_is_no_mistake(net):
    array = np.full((64, 20, 3), 0.5)
    array[40:] = 200
    assert len(net.dense(Recorder(array))) == 15
