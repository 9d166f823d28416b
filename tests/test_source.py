import io
import logging
import struct
import sys
import threading
import tracemalloc
from contextlib import suppress
from itertools import product

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import d2np
from d2np.images import open as images
from d2np.images import pixels
from d2np.images.open import open_source

HEIGHT, WIDTH = 150, 70
MOST = {"max_pixels": 10**6}
WHOLE = {"max_edge": None, "max_sum_edges": None, **MOST}


@pytest.fixture(scope="module", autouse=True)
def limit():
    """All images here are above Pillow's limit, so that TIFF files are read by rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
        yield


@pytest.fixture(scope="module")
def rgb():
    return np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(scope="module")
def deep(rgb):
    """16 bits."""
    return rgb.astype(np.uint16) * 257 + 1


def mapped(path, array):
    found = np.memmap(path, array.dtype, "w+", shape=array.shape)
    found[:] = array
    return found


TIFFS = {
    "plain": {},
    "strips": {"rowsperstrip": 7},
    "big endian": {"byteorder": ">", "rowsperstrip": 7, "compression": "lzw", "predictor": True},
    "one strip": {"compression": "zlib", "rowsperstrip": HEIGHT},
    "lzw": {"compression": "lzw", "rowsperstrip": 16},
    "zstd": {"compression": "zstd", "rowsperstrip": 16},
    "predictor": {"compression": "zlib", "predictor": True, "rowsperstrip": 11},
    "tiles": {"tile": (32, 48)},
    "zlib tiles": {"tile": (32, 48), "compression": "zlib"},
    "planes": {"planarconfig": "separate"},
    "planes of tiles": {"planarconfig": "separate", "tile": (16, 32), "compression": "zlib"},
    "bigtiff": {"bigtiff": True, "tile": (16, 16)},
}


def tiff(path, array, **options):
    if options.get("planarconfig") == "separate":
        array = np.moveaxis(array, 2, 0)
    photometric = options.pop("photometric", "rgb" if array.ndim == 3 else "minisblack")
    with tifffile.TiffWriter(
        path, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", None)
    ) as writer:
        writer.write(array, photometric=photometric, **options)
    return path


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, rgb, deep):
    """Images of every kind, and what open_image should find in them."""
    folder = tmp_path_factory.mktemp("kinds")
    file = h5py.File(folder / "images.h5", "w")
    alpha = np.dstack([deep, deep[:, :, :1]])
    Image.fromarray(rgb).save(folder / "rgb.png")
    found = {
        "array": (rgb, rgb),
        "floats": (rgb.astype(np.float64), rgb),
        "grey floats": (rgb[:, :, 0].astype(np.float16), rgb[:, :, [0, 0, 0]]),
        "png": (folder / "rgb.png", rgb),
        "pil": (Image.fromarray(rgb), rgb),
        "memmap": (mapped(folder / "a", rgb), rgb),
        "memmap of grey": (mapped(folder / "b", deep[:, :, 1]), deep[:, :, [1, 1, 1]] / np.float32(257)),
        "memmap of floats": (mapped(folder / "c", rgb.astype(">f4")), rgb),
        "hdf5": (file.create_dataset("a", data=rgb), rgb),
        "hdf5 in chunks": (
            file.create_dataset("b", data=alpha, chunks=(20, 30, 2), compression="gzip"),
            deep / np.float32(257),
        ),
        "tiff with alpha": (
            tiff(folder / "alpha.tif", alpha, compression="zlib", extrasamples=["unassalpha"]),
            deep / np.float32(257),
        ),
    }
    for name, options in TIFFS.items():
        found[name] = (tiff(folder / f"{name}.tif", deep, **options), deep / np.float32(257))
    yield found
    file.close()


NAMES = [
    *("array", "floats", "grey floats", "png", "pil", "memmap", "memmap of grey", "memmap of floats"),
    *("hdf5", "hdf5 in chunks", "tiff with alpha", *TIFFS),
]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=15, derandomize=True)
@given(cuts=st.lists(st.tuples(st.integers(0, HEIGHT), st.integers(0, HEIGHT)).map(sorted), max_size=6))
def test_rows_are_those_of_the_whole(kinds, name, cuts):
    img, expected = kinds[name]
    whole = images.open_image(img, **MOST)
    np.testing.assert_array_equal(whole, expected)
    with open_source(img, **WHOLE) as source:
        assert source.given == source.shape == (HEIGHT, WIDTH)
        for first, last in [*cuts, (0, HEIGHT)]:
            found = source.read(first, last)
            assert found.dtype == whole.dtype
            np.testing.assert_array_equal(found, whole[first:last])


@pytest.mark.parametrize("name", NAMES)
def test_shrunk_images(kinds, name):
    img, _ = kinds[name]
    expected = pixels.shrink(images.open_image(img, **MOST), d2np.Options(max_edge=100, max_sum_edges=120))
    with open_source(img, max_edge=100, max_sum_edges=120, **MOST) as source:
        assert source.given == (HEIGHT, WIDTH)
        assert source.shape == expected.shape[:2]
        np.testing.assert_array_equal(source.read(5, 40), expected[5:40])


class Recorder:
    """An array in a file that writes down which rows are asked for."""

    def __init__(self, array, chunks=None):
        self.array, self.chunks, self.asked = array, chunks, []
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key):
        self.asked.append((key.start, key.stop))
        return self.array[key]


def test_only_the_rows_asked_for_are_read(rgb):
    recorder = Recorder(rgb)
    with open_source(recorder, **WHOLE) as source:
        source.read(10, 20)
        source.read(15, 30)
    assert recorder.asked == [(10, 20), (15, 30)]


def test_chunks_are_read_whole_and_remembered(rgb):
    recorder = Recorder(rgb, chunks=(40, 8, 3))
    with open_source(recorder, **WHOLE) as source:
        for first in range(0, HEIGHT, 10):
            for behind in (0, 20, 60):
                source.read(max(first - behind, 0), max(first - behind, 0) + 10)
    assert recorder.asked == [(0, 40), (40, 80), (80, 120), (120, 150)]


def test_floats_are_looked_through_until_one_tells_their_range(rgb):
    bright = rgb.astype(np.float32)
    bright[:70] = 0.5  # a dark margin is no image in 0..1
    recorder = Recorder(bright)
    with open_source(recorder, **WHOLE) as source:
        np.testing.assert_array_equal(source.read(0, HEIGHT), bright)
    assert recorder.asked == [(0, 64), (64, 128), (0, 150)]
    with pytest.raises(d2np.ImageError, match=r"in 0..1"):
        open_source(Recorder(bright / 255), **WHOLE)
    with open_source(Recorder(bright * 0), **WHOLE) as source:
        assert (source.read(0, 9) == 0).all()


def test_a_bad_row_of_a_memmap_is_found_when_it_is_read(tmp_path):
    array = np.full((600, 20), 99, np.float32)
    array[500, 3] = np.nan
    with open_source(mapped(tmp_path / "nan", array), **WHOLE) as source:
        assert (source.read(400, 500) == 99).all()
        with pytest.raises(d2np.ImageError, match="not finite"):
            source.read(490, 510)
    array[500, 3] = 1000
    with (
        open_source(mapped(tmp_path / "high", array), **WHOLE) as source,
        pytest.raises(d2np.ImageError, match="1000"),
    ):
        source.read(490, 510)


@pytest.mark.parametrize(
    "array", [np.zeros((9, 9), np.int64), np.zeros((9, 9, 2), np.uint8), np.zeros((0, 9), np.uint8)]
)
def test_forms_that_are_refused(array):
    for form in (array, Recorder(array)):
        with pytest.raises(d2np.ImageError):
            open_source(form, **WHOLE)


def test_a_closed_hdf5_file(tmp_path, rgb):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", data=rgb)
        source = open_source(dataset, **WHOLE)
    with pytest.raises(d2np.ImageError, match="/a cannot be read: "):
        source.read(3, 9)


# TIFF files


def test_inverted_grey_and_left_out_tiles(tmp_path, deep):
    path = tiff(tmp_path / "w.tif", deep[:, :, 0], photometric="miniswhite", compression="zstd")
    expected = (65535 - deep[:, :, [0, 0, 0]]) / np.float32(257)
    with open(path, "rb") as file:
        rows = images.TiffRows(file, "w.tif")
        np.testing.assert_array_equal(pixels.as_rgb(rows[0:HEIGHT]), expected)


def test_jpeg_tiles(tmp_path):
    rgb = np.zeros((96, 80, 3), np.uint8)
    rgb[:, 40:, 0] = 200
    path = tiff(tmp_path / "j.tif", rgb, compression="jpeg", tile=(32, 32))
    with open(path, "rb") as file:
        rows = images.TiffRows(file, "w.tif")
        np.testing.assert_allclose(rows[32:96], rgb[32:], atol=40)
        assert abs(rows[0:32].astype(int) - rgb[:32]).mean() < 2


def test_a_damaged_tile_is_found_when_it_is_read(tmp_path, deep):
    path = tiff(tmp_path / "d.tif", deep, compression="zlib", tile=(32, 80))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[2]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 50)
    with open_source(path, **WHOLE) as source:
        np.testing.assert_array_equal(source.read(0, 64), deep[:64] / np.float32(257))
        with pytest.raises(d2np.ImageError, match=r"d.tif is damaged from row 64 on"):
            source.read(60, 70)
    with pytest.raises(d2np.ImageError, match=r"d.tif is damaged from row 64 on"):
        images.open_image(path, **MOST)


@pytest.mark.parametrize("name", ["plain", "strips", "zlib tiles"])
def test_cut_files(tmp_path, deep, caplog, name):
    caplog.set_level(logging.CRITICAL, "tifffile")
    path = tiff(tmp_path / "cut.tif", deep, **TIFFS[name])
    whole = path.read_bytes()
    for share in (0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(d2np.ImageError, match=r"cut.tif"):
            images.open_image(path, **MOST)


def test_kinds_of_tiff_that_are_refused(tmp_path, rgb):
    path = tiff(tmp_path / "i.tif", rgb[:, :, 0].astype(np.int64))
    with pytest.raises(d2np.ImageError, match="int64"):
        open_source(path, **WHOLE)


def test_without_tifffile(tmp_path, deep, monkeypatch):
    path = tiff(tmp_path / "deep.tif", deep)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(d2np.ImageError, match=r"pip install 'd2np\[tiff\]'"):
        open_source(path, **WHOLE)


DEPTHS = [(np.uint8, 1), (np.uint8, 2), (np.uint8, 4), (np.uint8, 8), (np.uint16, 12), (np.uint16, 16)]
DEPTHS += [(np.int16, 16), (np.uint32, 32), (np.float16, 16), (np.float32, 32), (np.float64, 64)]
COMPRESSIONS = [None, "packbits", "lzw", "zlib", "lzma", "zstd", "jpeg"]
REFUSED = ["png", "webp", "jpeg2000", "jpegxl", "jpegxr", "lerc"]


def writable(byteorder, dtype, bits):
    """TIFF files of every kind that tifffile can write, with what they are called and their options."""
    height, width = 19, 32
    colours = np.random.RandomState(0).rand(height, width, 3)
    top = 255 if np.dtype(dtype).kind == "f" else min(2**bits, 2**16 >> (dtype == np.int16)) - 1
    values = (colours * top).astype(dtype)
    arrays = {"minisblack": values[:, :, 0], "miniswhite": values[:, :, 1], "rgb": values}
    for photometric, planes, layout, predictor, compression in product(
        arrays,
        ("contig", "separate"),
        ({"rowsperstrip": height}, {"rowsperstrip": 8}, {"tile": (16, 16)}),
        (False, True),
        COMPRESSIONS,
    ):
        array, options = arrays[photometric], {"photometric": photometric, **layout}
        # Not defined.
        if (photometric == "miniswhite" and np.dtype(dtype).kind not in "u") or (
            compression == "jpeg" and bits != 8
        ):
            continue
        if photometric == "rgb":
            options["planarconfig"] = planes
            array = np.moveaxis(array, 2, 0) if planes == "separate" else array
        elif planes == "separate":
            continue
        if bits not in (8, 16, 32, 64):
            options["bitspersample"] = bits
        if bits == 1:
            array = array.astype(bool)
        stream = io.BytesIO()
        try:
            tifffile.imwrite(
                stream, array, byteorder=byteorder, compression=compression, predictor=predictor, **options
            )
            stored = tifffile.imread(io.BytesIO(stream.getvalue())).astype(np.float64)
        except Exception:  # no such combination
            continue
        yield (photometric, planes, layout, predictor, compression), stream.getvalue(), stored


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize(("dtype", "bits"), DEPTHS)
def test_every_kind_of_tiff_by_rows_and_whole(monkeypatch, byteorder, dtype, bits):
    count = 0
    for kind, content, stored in writable(byteorder, dtype, bits):
        if stored.ndim == 2:
            stored = stored[:, :, np.newaxis]
        stored = np.moveaxis(stored, 0, 2) if stored.shape[0] == 3 else stored
        white = 255 if np.dtype(dtype).kind == "f" else 2 ** min(bits, 16) - 1
        if not ((stored >= 0) & (stored <= white)).all():  # tifffile does not find again what it wrote
            continue
        expected = np.broadcast_to(stored * (255 / white), (*stored.shape[:2], 3))
        if kind[0] == "miniswhite":
            expected = 255 - expected
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
        whole = images.open_image(content)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with open_source(content, **WHOLE) as source:
            height = source.given[0]
            rows = np.concatenate([source.read(k, min(k + 5, height)) for k in range(0, height, 5)])
        # Pillow keeps the upper eight bits of 16-bit colour; decoders of JPEG differ in their colours.
        coarse = 40 if kind[4] == "jpeg" else 1.01 if bits == 16 and kind[0] == "rgb" else 0.01
        assert abs(rows - expected).max() < 0.01, kind
        assert abs(whole - expected).max() < coarse, kind
        count += 1
    assert count > 10 or bits in (1, 2, 4, 12)  # which older versions of tifffile do not write


ORIENTED = ["jpg", "png", "webp", "tif", "lzw.tif", "tiles.tif", "deep.tif", "deep.png", "jpeg.tif"]


@pytest.mark.parametrize("name", ORIENTED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_every_type_of_file(tmp_path, rgb, monkeypatch, name, orientation):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    path, grey = tmp_path / f"image.{name}", np.kron(rgb[:20, :10, 0], np.ones((4, 4), np.uint8))
    if name.endswith(".tif"):
        options = {"lzw.tif": {"compression": "lzw"}, "tiles.tif": {"tile": (16, 16)}}.get(name, {})
        options = {"compression": "jpeg"} if name == "jpeg.tif" else options
        stored = grey.astype(np.float64) if name == "deep.tif" else grey
        tifffile.imwrite(path, stored, extratags=[(274, "H", 1, orientation, True)], **options)
    else:
        image = Image.fromarray(grey.astype(np.uint16) * 257 if name == "deep.png" else grey)
        exif = Image.Exif()
        exif[274] = orientation
        image.save(path, exif=exif)
    upright = Image.fromarray(grey)
    upright.getexif()[274] = orientation
    turned = images.open_image(upright, orient=True)
    for orient, expected in ((False, images.open_image(grey)), (True, turned)):
        for image in (path, path.read_bytes()):
            np.testing.assert_allclose(images.open_image(image, orient=orient), expected, atol=60)
            with open_source(image, orient=orient, **WHOLE) as source:
                assert source.given == expected.shape[:2]
                found = source.read(0, source.given[0])
            np.testing.assert_allclose(found, expected, atol=60)
            if "j" not in name and name != "webp":
                np.testing.assert_allclose(found, expected, atol=1e-4)


# Images inside TIFF files


def changed(path, code, compressed):
    """A TIFF of 64 x 64 px whose only strip is something else."""
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        for tag, value in ((259, code), (273, len(content)), (279, len(compressed))):
            where = tags[tag].valueoffset
            content[where : where + tags[tag].valuebytecount] = struct.pack(
                "<H" if tags[tag].valuebytecount == 2 else "<I", value
            )
    path.write_bytes(content + compressed)
    return path


@pytest.mark.parametrize(
    ("code", "codec"), [(7, "jpeg8"), (8, "zlib"), (50000, "zstd"), (34925, "lzma"), (5, "lzw")]
)
def test_a_larger_image_inside_is_not_decoded(tmp_path, code, codec):
    large = np.zeros((1500, 1500), np.uint8)
    compressed = getattr(imagecodecs, f"{codec}_encode")(large if code == 7 else large.tobytes())
    path = changed(tmp_path / "small.tif", code, compressed)
    for most in (10**6, 64 * 64):  # Pillow's limit: it reads the first ones
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", most // 2 - 1)
            tracemalloc.start()
            try:
                # Of what has no size in it, the beginning may be taken.
                with suppress(d2np.ImageError):
                    assert not images.open_image(path, max_pixels=10**6).any()
            finally:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert peak < 1 << 20


def test_the_size_of_the_image_inside_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    path = changed(tmp_path / "small.tif", 7, imagecodecs.jpeg8_encode(np.zeros((300, 200), np.uint8)))
    with pytest.raises(d2np.ImageError, match=r"image of 200 x 300 px where 64 x 64 px belong"):
        images.open_image(path, **MOST)


@pytest.mark.parametrize("compression", REFUSED)
def test_other_files_inside_are_refused(tmp_path, rgb, compression):
    path = tiff(tmp_path / "odd.tif", rgb, compression=compression, tile=(32, 32))
    with pytest.raises(
        d2np.ImageError, match=r"odd.tif is a TIFF of a kind that is not read \(RGB, \w+, 8 bits"
    ):
        images.open_image(path, **MOST)


def with_tiles(path, kind, edge):
    """A TIFF of 64 x 64 px that says that its one tile is larger."""
    tifffile.imwrite(path, np.zeros((64, 64), kind), tile=(64, 64), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for tag in (322, 323):
            where = file.pages[0].tags[tag].valueoffset
            content[where : where + 2] = edge.to_bytes(2, "little")
    path.write_bytes(content)
    return path


def test_strips_and_tiles_far_larger_than_the_image_are_not_decoded(tmp_path):
    many = tmp_path / "samples.tif"
    tifffile.imwrite(
        *(many, np.zeros((64, 64, 1100), np.float32)),
        **{"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib", "rowsperstrip": 64},
    )
    for path in (
        many,
        # Pillow would read this one.
        with_tiles(tmp_path / "grey.tif", np.uint8, 4352),
        with_tiles(tmp_path / "floats.tif", np.float32, 4096),
    ):
        with pytest.raises(d2np.ImageError, match="strips or tiles that are far larger than the image"):
            images.open_image(path)
    # There is room for tiles that are larger than the image for other reasons.
    path = with_tiles(tmp_path / "small.tif", np.float32, 2048)
    assert images.open_image(path).shape == (64, 64, 3)


# The limit


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "gif"])
def test_the_limit_is_raised_by_name_only(tmp_path, rgb, suffix):
    path = tmp_path / f"large.{suffix}"
    Image.fromarray(rgb).save(path)
    for most in (None, HEIGHT * WIDTH - 1):
        with pytest.raises(d2np.ImageError, match=r"too large.*max_pixels=10500 \(--max-pixels 10500 "):
            open_source(path, max_pixels=most)
    before = Image.MAX_IMAGE_PIXELS
    with open_source(path, max_pixels=HEIGHT * WIDTH) as source:
        assert source.shape == (HEIGHT, WIDTH)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_reader_with_a_limit_of_its_own(tmp_path, rgb, monkeypatch):
    """As Pillow 13 has one for WebP."""

    def opened(file, name):
        raise Image.DecompressionBombError("it exceeds limit")

    Image.fromarray(rgb).save(tmp_path / "large.webp")
    monkeypatch.setitem(Image.OPEN, "WEBP", (opened, Image.OPEN["WEBP"][1]))
    for most in (None, 10**6):
        with pytest.raises(d2np.ImageError, match=r"large.webp cannot be read: it exceeds limit"):
            open_source(tmp_path / "large.webp", max_pixels=most)


def test_large_tiffs_are_read_by_rows(tmp_path, rgb):
    path = tiff(tmp_path / "large.tif", rgb, compression="zlib", tile=(16, 16))
    with open_source(path, **WHOLE) as source:
        np.testing.assert_array_equal(source.read(17, 50), rgb[17:50])
        assert source._piece.cache_info().currsize == 3
    np.testing.assert_array_equal(images.open_image(path, max_pixels=10**6), rgb)
    turned = tiff(tmp_path / "turned.tif", rgb, extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(d2np.ImageError, match="too large to be turned"):
        open_source(turned, max_pixels=10**6, orient=True)


def test_readers_side_by_side(kinds):
    img, expected = kinds["zlib tiles"]
    wrong = []

    def read(source, start):
        for first in range(start, HEIGHT - 5):
            if not (source.read(first, first + 5) == expected[first : first + 5]).all():
                wrong.append(first)

    with open_source(img, **WHOLE) as source:
        readers = [threading.Thread(target=read, args=(source, start)) for start in (0, 20, 60)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert not wrong
