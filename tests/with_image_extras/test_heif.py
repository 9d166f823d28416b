"""HEIC images, written and read by the package pillow-heif: ``pip install -e '.[heif]'``."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

import d2np
from d2np.formats import hloc
from d2np.images import open as images


@pytest.fixture
def photo(tmp_path, make_image):
    """A HEIC file, and its pixels."""
    path = tmp_path / "photos" / "1.heic"
    path.parent.mkdir()
    pillow_heif.from_pillow(Image.fromarray(make_image(96, 128))).save(path)
    pixels = np.asarray(pillow_heif.open_heif(path))
    assert pixels.shape == (96, 128, 3)
    return path, pixels


def test_a_folder_of_a_phone(photo, tmp_path):
    """In a process that has registered nothing."""
    _, pixels = photo
    command = [sys.executable, "-m", "d2np", "extract", "photos", "-o", "f.h5", "--weights", "analytic"]
    subprocess.run(command, cwd=tmp_path, check=True)
    expected = d2np.Net.load("analytic")(pixels)
    assert len(expected)
    np.testing.assert_array_equal(hloc.read(tmp_path / "f.h5", "1.heic").keypoints, expected.keypoints)


def test_brands_that_avif_has_too(photo):
    path, pixels = photo
    content = path.read_bytes()
    np.testing.assert_array_equal(images.open_image(content[:8] + b"mif1" + content[12:]), pixels)


def test_exif_turns_nothing(tmp_path, make_image):
    """Where an image of this format is to be turned, its decoder does it."""
    image, exif = Image.fromarray(make_image(64, 96)), Image.Exif()
    exif[274] = 6
    pillow_heif.register_heif_opener()
    image.save(tmp_path / "turned.heic", exif=exif)
    plain = images.open_image(tmp_path / "turned.heic")
    np.testing.assert_array_equal(images.open_image(tmp_path / "turned.heic", orient=True), plain)


def test_a_small_image_that_decodes_to_a_large_one():
    pillow_heif.register_heif_opener()
    content = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(content, "HEIF")
    claims = content.getvalue()
    place = claims.index(b"ispe") + 8
    claims = claims[:place] + struct.pack(">2I", 8, 8) + claims[place + 8 :]
    with pytest.raises(d2np.ImageError, match=r"cannot be read: .*Security limit"):
        images.open_image(claims)
    with pytest.raises(d2np.ImageError, match="too large to open unasked: 3000 x 3000"):
        images.open_image(content.getvalue(), max_pixels=1 << 20)
