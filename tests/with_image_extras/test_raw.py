"""RAW images, read by the package rawpy: ``pip install -e '.[raw]'``."""

from __future__ import annotations

import numpy as np
import pytest
import rawpy
import tifffile
from PIL import Image

import d2np
from d2np.dataset import HlocOutput, Settings, extract, listing
from d2np.formats import hloc
from d2np.images import open as images


def write_dng(path, image, orientation):
    """Write what a camera with a Bayer filter would see of an image."""
    cells = np.empty(image.shape[:2], np.uint16)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        cells[row::2, column::2] = image[row::2, column::2, channel].astype(np.uint16) * 16
    identity = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
    tags = [
        *((274, 3, 1, orientation, True), (33421, 3, 2, (2, 2), True), (33422, 1, 4, (0, 1, 1, 2), True)),
        *((50706, 1, 4, (1, 4, 0, 0), True), (50708, 2, 5, "None", True), (50717, 3, 1, 4095, True)),
        *((50721, 10, 9, identity, True), (50728, 5, 3, (1, 1) * 3, True), (50778, 3, 1, 21, True)),
    ]
    tifffile.imwrite(path, cells, photometric=32803, extratags=tags, metadata=None)


@pytest.fixture(params=[1, 3, 6, 8])
def photo(request, tmp_path, make_image):
    write_dng(tmp_path / "1.dng", make_image(96, 128), request.param)
    return tmp_path / "1.dng"


def developed(path, **options):
    with rawpy.imread(str(path)) as raw:
        return raw.postprocess(use_camera_wb=True, **options)


def test_as_stored_and_turned(photo):
    stored = images.open_image(photo)
    np.testing.assert_array_equal(stored, developed(photo, user_flip=0))
    assert stored.shape == (96, 128, 3)
    np.testing.assert_array_equal(images.open_image(photo, orient=True), developed(photo))
    with pytest.raises(d2np.ImageError, match="too large to open unasked: 128 x 96"):
        images.open_image(photo, max_pixels=99)


def test_a_folder_of_a_camera(tmp_path, make_image):
    for name in ("1.dng", "2.DNG"):
        write_dng(tmp_path / name, make_image(96, 128), 1)
    (tmp_path / "3.nef").write_bytes(b"none" * 99)
    (tmp_path / "4.dng").write_bytes((tmp_path / "1.dng").read_bytes()[:-9000])
    net, settings = d2np.Net.load("analytic"), Settings()
    output = HlocOutput(tmp_path / "f.h5", settings.recorded(net))
    report = extract(net, listing([tmp_path]), output, settings)
    assert report.done == 2
    expected = net(Image.fromarray(developed(tmp_path / "1.dng")))
    np.testing.assert_array_equal(hloc.read(tmp_path / "f.h5", "2.DNG").keypoints, expected.keypoints)
    assert [reason.partition(" cannot be read: ")[2] for _, reason in report.failed] == [
        "Unsupported file format or not RAW file",
        "Input/output error",
    ]
