import base64
import io
import logging
import re
import struct
import sys
import threading
import warnings
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

import d2np
from d2np import reference
from d2np.dataset.listing import EXTENSIONS
from d2np.images import messages, pixels
from d2np.images import open as images
from d2np.images.open import open_source


@pytest.fixture(scope="module")
def rgb():
    """9 x 13 pixels of every colour."""
    return np.random.RandomState(0).randint(0, 256, (9, 13, 3), np.uint8)


@pytest.fixture(scope="module")
def grey(rgb):
    return np.ascontiguousarray(rgb[:, :, 1])


def as_rgb(grey):
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


# Arrays


def test_an_array_of_bytes_is_taken_as_it_is(rgb):
    found = images.open_image(rgb)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, rgb)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_stand_for_bytes(rgb, dtype):
    found = images.open_image(rgb.astype(dtype))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rgb)


def test_floats_keep_their_fractions():
    found = images.open_image(np.full((9, 9), 100.25))
    assert (found == 100.25).all()


def test_the_range_of_uint16_is_brought_to_255(rgb):
    found = images.open_image(rgb.astype(np.uint16) * 257)
    np.testing.assert_allclose(found, rgb, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shapes_of_grey(grey, dtype):
    given_ = grey.astype(dtype)
    for form in (given_, given_[:, :, np.newaxis]):
        np.testing.assert_array_equal(images.open_image(form), as_rgb(grey))


def test_alpha_is_left_out(rgb):
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 3, np.uint8)])
    np.testing.assert_array_equal(images.open_image(alpha), rgb)
    # What stands in the alpha channel does not count among the values to check.
    floats = alpha.astype(np.float32)
    floats[:, :, 3] = np.nan
    np.testing.assert_array_equal(images.open_image(floats), rgb)


def test_arrays_of_any_layout(rgb):
    read_only = rgb.copy()
    read_only.flags.writeable = False
    wide = np.zeros((9, 26, 3), np.uint8)
    wide[:, ::2] = rgb
    for form in (read_only, np.asfortranarray(rgb), wide[:, ::2], rgb[::-1][::-1], rgb[..., ::-1][..., ::-1]):
        np.testing.assert_array_equal(images.open_image(form), rgb)
    big_endian = rgb.astype(">f4")
    np.testing.assert_array_equal(images.open_image(big_endian), rgb)


def test_the_given_array_is_not_changed(rgb, net):
    given_ = np.tile(rgb, (2, 2, 1)).astype(np.float32)
    before = given_.copy()
    net.dense(given_)
    np.testing.assert_array_equal(given_, before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((9, 9, 3), np.nan), "not finite"),
        (np.full((9, 9), np.inf), "not finite"),
        (np.where(np.arange(81).reshape(9, 9) == 40, -np.inf, 99), "not finite"),
        (np.empty((0, 9, 3), np.uint8), "empty"),
        (np.empty((9, 0), np.float32), "empty"),
        (np.zeros((9, 9, 2), np.uint8), "shape"),
        (np.zeros((9, 9, 5), np.uint8), "shape"),
        (np.zeros((3, 9, 9), np.uint8), "shape"),
        (np.zeros((1, 9, 9, 3), np.uint8), "shape"),
        (np.zeros(9, np.uint8), "shape"),
        (np.array(3, np.uint8), "shape"),
        (np.random.RandomState(0).rand(9, 9, 3), "0..1.*multiply it by 255"),
        (np.ones((9, 9), np.float32), "0..1"),
        (np.full((9, 9), 1000.0), "0..255; they go from 1000 to 1000"),
        (np.full((9, 9), -300.0), "0..255"),
        (np.zeros((9, 9), np.int64), "int64"),
        (np.zeros((9, 9), np.int8), "int8"),
        (np.zeros((9, 9), bool), "bool"),
        (np.zeros((9, 9), complex), "complex"),
        (np.full((9, 9), "a"), "uint8"),
        (np.full((9, 9), None), "object"),
    ],
)
def test_arrays_that_are_refused(net, array, message):
    with pytest.raises(d2np.ImageError, match=message):
        images.open_image(array)
    with pytest.raises(d2np.ImageError, match=message):
        net(array)


def test_black_is_no_image_in_0_to_1():
    assert (images.open_image(np.zeros((9, 9))) == 0).all()


def test_resampling_may_overshoot():
    assert images.open_image(np.linspace(-20, 270, 81).reshape(9, 9)).max() == 270


@pytest.mark.parametrize("thing", [None, 3, [[1, 2], [3, 4]], b"image.png", object()])
def test_things_that_are_no_image(net, thing):
    with pytest.raises(d2np.ImageError):
        net(thing)


# Files and PIL images


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_files_by_name_path_and_image(tmp_path, rgb):
    path = saved(tmp_path, Image.fromarray(rgb), "rgb.png")
    for form in (path, str(path), Image.fromarray(rgb)):
        found = images.open_image(form)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, rgb)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.bmp", "grey.pgm"])
def test_grey_files(tmp_path, grey, name):
    path = saved(tmp_path, Image.fromarray(grey), name)
    np.testing.assert_array_equal(images.open_image(path), as_rgb(grey))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_files(tmp_path, grey, name):
    deep = grey.astype(np.uint16) * 257 + 1
    path = saved(tmp_path, Image.fromarray(deep), name)
    np.testing.assert_array_equal(images.open_image(path), images.open_image(deep))
    np.testing.assert_allclose(images.open_image(path), as_rgb(grey), atol=0.01)


def test_modes_of_more_than_eight_bits(grey):
    deep = grey.astype(np.int32) * 257
    np.testing.assert_allclose(images.open_image(Image.fromarray(deep)), as_rgb(grey), atol=1e-4)
    floats = Image.fromarray(grey.astype(np.float32))
    np.testing.assert_array_equal(images.open_image(floats), as_rgb(grey))
    with pytest.raises(d2np.ImageError, match="no known range"):
        images.open_image(Image.fromarray(deep * 10))
    with pytest.raises(d2np.ImageError, match=r"0..1"):
        images.open_image(Image.fromarray(grey.astype(np.float32) / 255))


def test_modes_that_pillow_converts(tmp_path, rgb):
    img = Image.fromarray(rgb)
    rgba = img.copy()
    rgba.putalpha(7)
    for converted in (rgba, img.convert("L").convert("LA"), img.convert("1"), img.convert("HSV")):
        np.testing.assert_array_equal(images.open_image(converted), np.asarray(converted.convert("RGB")))
    path = saved(tmp_path, rgba, "rgba.png")
    np.testing.assert_array_equal(images.open_image(path), rgb)


def test_palette_files(tmp_path, rgb):
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
    expected = np.asarray(palette.convert("RGB"))
    for name in ("palette.png", "palette.gif"):
        np.testing.assert_array_equal(images.open_image(saved(tmp_path, palette, name)), expected)
    transparent = saved(tmp_path, palette, "transparent.png", transparency=bytes(range(200)))
    np.testing.assert_array_equal(images.open_image(transparent), expected)


class Pipe:
    """A file that cannot be sought in, and gives little at a time."""

    def __init__(self, content):
        self.left = content

    def read(self, count):
        found, self.left = self.left[: min(count, 50)], self.left[min(count, 50) :]
        return found


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_encoded_images_in_memory(tmp_path, net, suffix):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 50, 3), np.uint8))
    path = saved(tmp_path, image, f"image.{suffix}")
    content = path.read_bytes()
    expected = net(path)
    with (
        open(path, "rb") as file,
        open(path, "rb", buffering=0) as raw,
        zipfile.ZipFile(tmp_path / "images.zip", "w") as archive,
    ):
        file.read(7)  # is read from the beginning all the same
        archive.writestr("image", content)
        forms = [content, bytearray(content), memoryview(content), io.BytesIO(content), file, file, raw]
        for form in [*forms, Pipe(content), archive.open("image")]:
            np.testing.assert_array_equal(net(form).descriptors, expected.descriptors)
        assert not file.closed
        np.testing.assert_array_equal(images.open_rgb(file), images.open_rgb(path))


def test_files_that_cannot_be_read(tmp_path, rgb, monkeypatch):
    path = saved(tmp_path, Image.fromarray(rgb), "rgb.png")
    closed = path.open("rb")
    closed.close()
    for form in (b"no image", io.BytesIO(), io.StringIO("text"), closed, Pipe(["text"])):
        with pytest.raises(d2np.ImageError):
            images.open_image(form)
    with path.open() as text, pytest.raises(d2np.ImageError, match=r"rgb.png cannot be read"):
        images.open_image(text)
    monkeypatch.setattr(images, "_MOST_BYTES_AROUND", 0)
    with pytest.raises(d2np.ImageError, match="more than 16 bytes"):
        images.open_image(Pipe(bytes(10**6)), max_pixels=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(d2np.ImageError, match="max_pixels=117"):
        images.open_image(path.read_bytes())
    # A path that a file claims to have is not opened.
    stream = io.BytesIO(path.read_bytes()[:60])
    stream.name = str(path)
    with pytest.raises(d2np.ImageError, match=r"rgb.png"):
        images.open_image(stream, max_pixels=10**6)


class Tensor:
    """As those of PyTorch: its type is none of NumPy's."""

    dtype = "library.uint8"

    def __init__(self, array, error=None):
        self.array, self.error = array, error
        self.shape, self.ndim = array.shape, array.ndim

    def __getitem__(self, key):
        return Tensor(self.array[key])

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise self.error
        return self.array


class DLPack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_arrays_of_other_libraries(net):
    rgb = np.random.RandomState(0).randint(0, 256, (40, 50, 3), np.uint8)
    expected = net(rgb).descriptors
    for form in (Tensor(rgb), DLPack(rgb), memoryview(rgb)):
        np.testing.assert_array_equal(net(form).descriptors, expected)
    np.testing.assert_array_equal(net(rgb, mask=Tensor(rgb[:, :, 0] * 0 + 1)).descriptors, expected)
    for error in (RuntimeError("requires grad"), TypeError("on the GPU"), ValueError()):
        with pytest.raises(d2np.ImageError, match=r"the image cannot be read: .+"):
            net(Tensor(rgb, error))
        with pytest.raises(d2np.ImageError, match="mask"):
            net(rgb, mask=Tensor(rgb, error))
    with pytest.raises(d2np.ImageError, match=r"moveaxis\(image, 0, -1\)"):
        net(Tensor(np.moveaxis(rgb, 2, 0)))

    class Odd(Tensor):
        dtype = np.dtype(np.uint8)

        def __getitem__(self, key):
            raise TypeError("use .get()")

    with pytest.raises(d2np.ImageError, match=r"use .get\(\)"):
        net(Odd(rgb))


def test_paths_with_nul(net):
    for path in ("a\0b.png", Path("a\0b.png")):
        with pytest.raises(d2np.ImageError, match="null byte"):
            net(path)


@pytest.mark.parametrize(("dtype", "white"), [(bool, 1), (np.int16, 4095), (np.int64, 255), (">u4", 65535)])
def test_the_advice_on_types_is_right(dtype, white):
    values = (np.linspace(0, 1, 81).reshape(9, 9) * white).astype(dtype)
    with pytest.raises(d2np.ImageError, match=r"multiply numbers by 255.0 / WHITE") as error:
        images.open_image(values)
    assert "astype" not in str(error.value)
    found = images.open_image(values * (255.0 / white))
    assert found.min() == 0
    assert found.max() == pytest.approx(255)


def test_byte_order_does_not_matter(rgb):
    deep = rgb.astype(np.uint16) * 257
    np.testing.assert_array_equal(images.open_image(deep.astype(">u2")), images.open_image(deep))


# What may be opened


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
IPTC = (
    bytes.fromhex("1c033c00020100" + "1c0314000200091c031e00020009" + "1c0378000105" + "1c080a") + b"\0\x50"
)


@pytest.mark.parametrize("kind", ["EPS", "IPTC", "PCX", "ICO", "PSD", "FITS", "SGI", "DDS"])
def test_other_formats_are_not_opened(tmp_path, rgb, monkeypatch, kind):
    path = tmp_path / "image.jpg"
    if kind in ("EPS", "IPTC"):
        path.write_bytes(EPS if kind == "EPS" else IPTC + EPS)
    elif kind in ("PSD", "FITS"):
        path.write_bytes({"PSD": b"8BPS\0\1", "FITS": b"SIMPLE  =                    T"}[kind] + bytes(3000))
    else:
        Image.fromarray(np.kron(rgb, np.ones((4, 4, 1), np.uint8))).save(path, kind)
    Image.init()
    for format in set(Image.OPEN) - set(images.FORMATS):
        monkeypatch.setitem(Image.OPEN, format, (None, lambda prefix: pytest.fail("asked")))
    for image in (path, path.read_bytes()):
        with pytest.raises(d2np.ImageError, match="is not an image in a format that d2np reads"):
            images.open_image(image)


def test_every_extension_has_its_format():
    Image.init()
    for extension in EXTENSIONS:
        assert Image.registered_extensions().get(extension, "JPEG") in images.FORMATS


def test_mpo_opens_as_jpeg(tmp_path, rgb):
    image = Image.fromarray(np.kron(rgb, np.ones((8, 8, 1), np.uint8)))
    path = saved(tmp_path, image, "stereo.mpo", save_all=True, append_images=[image])
    assert images.open_image(path).shape == (72, 104, 3)


# Messages


@pytest.mark.filterwarnings("error")
def test_messages_have_the_name_of_the_image(tmp_path, rgb, caplog, monkeypatch):
    path = saved(tmp_path, Image.fromarray(rgb), "odd.png")

    def talkative(*_):
        for _ in range(2):
            warnings.warn("chunk is odd", UserWarning, stacklevel=1)
            logging.getLogger("tifffile").warning("tag is odd")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    def elsewhere():
        with pytest.raises(UserWarning, match="not of the image"):
            warnings.warn("not of the image", UserWarning, stacklevel=1)
        logging.getLogger("tifffile").warning("not of the image")

    monkeypatch.setattr(PngImageFile, "load_prepare", talkative)
    with pytest.raises(d2np.ImageError):  # not prepared
        images.open_image(path)
    ours = [record.getMessage() for record in caplog.records if record.name == "d2np"]
    assert ours == [f"{path}: chunk is odd", f"{path}: tag is odd"]
    assert [record.getMessage() for record in caplog.records if record.name == "tifffile"] == [
        "not of the image"
    ]
    with pytest.raises(UserWarning, match="behind"):
        warnings.warn("behind", UserWarning, stacklevel=1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "gif", "jpg"])
def test_images_that_are_allowed_are_no_bombs(tmp_path, rgb, caplog, monkeypatch, suffix):
    path = saved(tmp_path, Image.fromarray(rgb), f"large.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9 * 13 - 1)
    assert images.open_image(path).shape == (9, 13, 3)
    assert not caplog.records


def narrow():
    return np.linspace(7000, 7900, 9 * 13).reshape(9, 13).astype(np.uint16)


def test_few_grey_levels_are_remarked_on_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(messages, "_shown", False)
    path = saved(tmp_path, Image.fromarray(narrow()), "thermal.png")
    for image in (path, path, narrow()):
        images.open_image(image)
    assert re.fullmatch(
        r".*thermal.png: .* 7000 to 7900, which is 3.5 .* stretch=True .*", caplog.messages[0]
    )
    assert len(caplog.messages) == 1
    with messages.collected() as records:  # a job
        for image in (path, narrow(), narrow().astype(">u2")):
            with open_source(image, max_edge=None, max_sum_edges=None) as source:
                source.read(0, 9)
        images.open_image(path, stretch=True)
        images.open_image(narrow() * 8)
        images.open_image(np.zeros((9, 9), np.uint16))
    assert len(records) == 1


def test_stretched_images(tmp_path):
    path = saved(tmp_path, Image.fromarray(narrow()), "thermal.tif")
    for image in (path, narrow(), narrow().astype(">u2")):
        whole = images.open_image(image, stretch=True)
        assert (whole.min(), whole.max()) == (0, 255)
        with open_source(image, stretch=True, max_edge=None, max_sum_edges=None) as source:
            np.testing.assert_array_equal(source.read(2, 7), whole[2:7])
    rgb = np.full((9, 9, 3), 99, np.uint8)
    np.testing.assert_array_equal(images.open_image(rgb, stretch=True), rgb)


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk.tif"])
def test_cmyk_files(tmp_path, rgb, name):
    cmyk = Image.fromarray(np.kron(rgb, np.ones((8, 8, 1), np.uint8))).convert("CMYK")
    found = images.open_image(saved(tmp_path, cmyk, name))
    np.testing.assert_allclose(found.mean((0, 1)), np.asarray(cmyk.convert("RGB")).mean((0, 1)), atol=3)


def test_what_is_refused_says_why(tmp_path, rgb):
    text = tmp_path / "text.png"
    text.write_text("no image at all")
    with pytest.raises(d2np.ImageError, match=r"text.png is not an image"):
        images.open_image(text)
    with pytest.raises(d2np.ImageError, match=r"missing.png cannot be read: No such file"):
        images.open_image(tmp_path / "missing.png")
    with pytest.raises(d2np.ImageError, match="Is a directory"):
        images.open_image(tmp_path)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(d2np.ImageError, match=r"empty.jpg"):
        images.open_image(empty)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files(tmp_path, rgb, kind, share):
    stream = io.BytesIO()
    Image.fromarray(np.tile(rgb, (9, 9, 1))).save(stream, kind)
    path = tmp_path / "half"
    path.write_bytes(stream.getvalue()[: int(share * stream.tell())])
    with pytest.raises(d2np.ImageError, match="half"):
        images.open_image(path)


def test_a_truncated_file_opened_by_the_user(rgb):
    stream = io.BytesIO()
    Image.fromarray(np.tile(rgb, (9, 9, 1))).save(stream, "PNG")
    with (
        Image.open(io.BytesIO(stream.getvalue()[: stream.tell() // 2])) as img,
        pytest.raises(d2np.ImageError),
    ):
        images.open_image(img)


def test_bombs_are_not_opened(tmp_path, rgb, monkeypatch):
    path = saved(tmp_path, Image.fromarray(rgb), "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(d2np.ImageError, match="too large"):
        images.open_image(path)


def test_orientation_is_ignored_unless_asked_for(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    path = saved(tmp_path, Image.fromarray(rgb), "turned.png", exif=exif)
    np.testing.assert_array_equal(images.open_image(path), rgb)
    np.testing.assert_array_equal(images.open_image(path, orient=True), np.rot90(rgb, -1))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(images.open_image(opened, orient=True), np.rot90(rgb, -1))


def test_tiff_that_pillow_has_turned(tmp_path, grey):
    """An image of the user, which Pillow would map and turn wrongly."""
    path = saved(tmp_path, Image.fromarray(grey), "turned.tif", tiffinfo={274: 6})
    with Image.open(path) as opened:
        np.testing.assert_array_equal(images.open_image(opened), as_rgb(np.rot90(grey, -1)))


def test_orientation_through_the_net(tmp_path, net, image, assert_same_features):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = saved(tmp_path, Image.fromarray(image), "turned.png", exif=exif)
    assert_same_features(net(path), net(image))
    turned = np.rot90(image, 2)
    assert_same_features(net(path, orient=True), net(turned))
    np.testing.assert_array_equal(net.dense(path, orient=True), net.dense(turned))
    np.testing.assert_array_equal(net.strength(path, orient=True), net.strength(turned))
    np.testing.assert_array_equal(
        net.describe(path, [[20, 20]], orient=True)[0], net.describe(turned, [[20, 20]])[0]
    )


def test_open_rgb_rounds():
    found = images.open_rgb(np.array([[-3, 0.4, 0.6, 254.6, 260]]))
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 1, 255, 255])
    assert found.dtype == np.uint8


# Resizing


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((3000, 2000), {}, (1600, 1066)),
        ((2000, 3000), {}, (1066, 1600)),
        ((4000, 500), {}, (1600, 200)),
        ((1600, 1200), {}, (1600, 1200)),
        ((1601, 1200), {}, (1600, 1199)),
        ((1600, 1201), {}, (1599, 1200)),
        ((3200, 3200), {}, (1400, 1400)),
        ((640, 480), {}, (640, 480)),
        ((4000, 500), {"max_edge": None}, (2488, 311)),
        ((3000, 3000), {"max_sum_edges": None}, (1600, 1600)),
        ((3000, 3000), {"max_edge": None, "max_sum_edges": None}, (3000, 3000)),
        ((300, 200), {"max_edge": 150}, (150, 100)),
        ((300, 200), {"max_sum_edges": 250}, (150, 100)),
    ],
)
def test_the_published_sizes(size, limits, expected):
    assert pixels.network_size(*size, d2np.Options(**limits)) == expected


EDGE = st.integers(1, 6000)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(EDGE, EDGE, st.none() | EDGE, st.none() | EDGE)
def test_sizes_keep_the_limits_and_the_proportions(width, height, max_edge, max_sum_edges):
    found = pixels.network_size(width, height, d2np.Options(max_edge=max_edge, max_sum_edges=max_sum_edges))
    assert max(found) <= (max_edge or 6000)
    assert sum(found) <= (max_sum_edges or 12000)
    # Exact arithmetic, truncated twice at most: off by two pixels at the very worst.
    factor = Fraction(1)
    if max_edge:
        factor = min(factor, Fraction(max_edge, max(width, height)))
    if max_sum_edges:
        factor = min(factor, Fraction(max_sum_edges, width + height))
    for edge, given_ in zip(found, (width, height), strict=True):
        assert -3 < edge - given_ * factor < 3


def test_shrinking_to_nothing_is_refused(net, image):
    with pytest.raises(d2np.ImageError, match="raise max_edge"):
        net(np.zeros((2000, 9), np.uint8), max_edge=100)
    with pytest.raises(d2np.ImageError, match="it needs 8 px"):
        net(np.zeros((2000, 90), np.uint8), max_edge=100)


def test_bytes_shrink_as_pillow_shrinks_them(image):
    found = pixels.shrink(image, d2np.Options(max_edge=50))
    expected = Image.fromarray(image).resize((50, int(61 * (50 / 83))), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_floats_shrink_without_rounding(image):
    found = pixels.shrink(image.astype(np.float32) / 2, d2np.Options(max_edge=50))
    expected = pixels.shrink(image, d2np.Options(max_edge=50))
    assert found.dtype == np.float32
    np.testing.assert_allclose(2 * found, expected, atol=1.1)
    assert (found % 1 != 0).any()


def test_both_limits_shrink_one_after_the_other(image):
    once = pixels.shrink(image, d2np.Options(max_edge=60, max_sum_edges=None))
    twice = pixels.shrink(once, d2np.Options(max_edge=None, max_sum_edges=80))
    np.testing.assert_array_equal(pixels.shrink(image, d2np.Options(max_edge=60, max_sum_edges=80)), twice)


@pytest.mark.parametrize(
    "limits", [{"max_edge": 100}, {"max_sum_edges": 170}, {"max_edge": 120, "max_sum_edges": 150}]
)
def test_keypoints_are_in_pixels_of_the_given_image(net, make_image, limits):
    large = make_image(121, 163)
    small = pixels.shrink(large, d2np.Options(**limits))
    assert small.shape != large.shape
    found, expected = net(large, **limits), net(small)
    assert found.image_size == (163, 121)
    assert len(found) > 3
    factors = [163 / small.shape[1], 121 / small.shape[0], 1]
    np.testing.assert_allclose(found.keypoints, expected.keypoints * factors, rtol=1e-5)
    np.testing.assert_array_equal(found.descriptors, expected.descriptors)
    np.testing.assert_array_equal(net.dense(large, **limits), net.dense(small))
    np.testing.assert_array_equal(net.strength(large, **limits), net.strength(small))


# Preprocessing


@pytest.mark.parametrize("name", ["caffe", "torch"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_preprocess_equals_the_reference(rgb, name, dtype):
    found = pixels.preprocess(rgb.astype(dtype), name)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, reference.preprocess(rgb.astype(np.float64), name), rtol=1e-5, atol=1e-6
    )


def test_an_unknown_preprocessing(net, image):
    with pytest.raises(d2np.OptionError, match="caffe, torch"):
        net(image, preprocessing="tf")


@pytest.mark.parametrize("method", ["__call__", "dense", "strength"])
def test_forms_of_one_image_give_one_result(net, image, tmp_path, method):
    path = saved(tmp_path, Image.fromarray(image), "image.png")

    def result(form):
        found = getattr(net, method)(form)
        return found.keypoints if method == "__call__" else found

    expected = result(image)
    assert len(expected)
    for form in (image.astype(float), np.asfortranarray(image), path, Image.open(path)):
        np.testing.assert_array_equal(result(form), expected)


# Black, 600 x 400 px, one frame.
AVIF = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
    "AAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAagAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEA"
    "AGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAACWAAAAZAAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBAQwA"
    "AAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAcm1kYXQSAAoKGGYlfHtEBDQaEDJaE/3h4UV3///4"
    "s/AAz8opx5Q8ydNwXb++lIhoa7Sh3OfRqJAAZ3RLhJ2O17NX/paWIPUO0vuUZI7vG1LSmY1iZQziSDHN7HOTNKxBRE2S8kh75VYi"
    "zXY1uIPA"
)


def test_avif_is_not_opened_under_a_low_limit():
    """Its decoder decodes a frame first, and then brings it to the size that the file tells."""
    place = AVIF.index(b"ispe") + 8
    small = AVIF[:place] + struct.pack(">2I", 64, 64) + AVIF[place + 8 :]
    for content in (AVIF, small):
        # Where Pillow does not read it at all that is said.
        with pytest.raises(
            d2np.ImageError, match=r"is not opened where max_pixels is below 67108864|is not an image"
        ):
            images.open_image(content, max_pixels=(1 << 26) - 1)
    if "AVIF" in Image.OPEN:
        assert images.open_image(AVIF).max() <= 1


class FakeHeif:
    """Passes for the package pillow-heif: its images are PNG files behind 32 bytes."""

    def __init__(self):
        self.calls = 0

    def register_heif_opener(self):
        self.calls += 1

        def opened(file, name):
            file.seek(32)
            image = Image.open(io.BytesIO(file.read()))
            image.format = "HEIF"
            return image

        Image.register_open("HEIF", opened, lambda prefix: prefix[4:8] == b"ftyp")


@pytest.fixture
def without_heif(monkeypatch):
    """Nobody has registered it, and nobody will have."""
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {name: how for name, how in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])


def heif(image, brand):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return b"\0\0\0\x20ftyp" + brand + bytes(20) + file.getvalue()


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heif_is_registered_when_it_is_met(without_heif, monkeypatch, image, brand):
    library = FakeHeif()
    monkeypatch.setitem(sys.modules, "pillow_heif", library)
    for _ in range(2):
        np.testing.assert_array_equal(images.open_image(heif(image, brand)), image)
    assert library.calls == 1
    with pytest.raises(d2np.ImageError, match=r"too large to open unasked: 83 x 61"):
        images.open_image(heif(image, brand), max_pixels=99)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heif_without_the_package(without_heif, monkeypatch, image, tmp_path, brand):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "1.heic").write_bytes(heif(image, brand))
    with pytest.raises(
        d2np.ImageError, match=r"1\.heic: .*HEIC.* need the package pillow-heif: .*d2np\[heif\]"
    ):
        images.open_image(tmp_path / "1.heic")
    with pytest.raises(d2np.ImageError, match="is not an image in a format"):
        images.open_image(heif(image, b"mp42"))


class FakeRaw:
    """Passes for the package rawpy: its images are as large as their files say, and grey."""

    LibRawError = type("LibRawError", (Exception,), {})
    sizes = SimpleNamespace(iwidth=6, iheight=4, flip=6)

    def imread(self, file):
        if file.read(4) != b"good":
            raise self.LibRawError(b"not RAW")
        return self

    def postprocess(self, *, use_camera_wb, user_flip):
        assert (use_camera_wb, user_flip) == (True, 0)
        return np.arange(72, dtype=np.uint8).reshape(4, 6, 3)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sizes = None


def test_raw_images(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rawpy", FakeRaw())
    (tmp_path / "1.NEF").write_bytes(b"good")
    (tmp_path / "2.dng").write_bytes(b"bad")
    stored = np.arange(72).reshape(4, 6, 3)
    np.testing.assert_array_equal(images.open_image(tmp_path / "1.NEF"), stored)
    monkeypatch.setitem(sys.modules, "rawpy", FakeRaw())
    turned = np.rot90(stored, -1)
    np.testing.assert_array_equal(images.open_image(tmp_path / "1.NEF", orient=True), turned)
    monkeypatch.setitem(sys.modules, "rawpy", FakeRaw())
    with pytest.raises(d2np.ImageError, match=r"1\.NEF is too large to open unasked: 6 x 4"):
        images.open_image(tmp_path / "1.NEF", max_pixels=23)
    with pytest.raises(d2np.ImageError, match=r"2\.dng cannot be read: not RAW$"):
        images.open_image(tmp_path / "2.dng")


def test_raw_without_the_package(monkeypatch, tmp_path, image):
    """Never the preview: most of them are TIFF files that have one."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    Image.fromarray(image).save(tmp_path / "1.dng", "TIFF")
    with pytest.raises(d2np.ImageError, match=r"1\.dng: RAW images need the package rawpy: .*d2np\[raw\]"):
        images.open_image(tmp_path / "1.dng")
