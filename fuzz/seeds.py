"""Small valid files of each kind, made when they are needed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import checkpoints
import imagecodecs
import numpy as np

import d2np
from d2np.dataset.archives import Group, write
from d2np.features import Features, Matches
from d2np.formats import hloc, hloc_matches, npz
from d2np.layers import PARAMETER_SHAPES

_LONGEST_SEED = 20_000

SETTINGS = {"detector": "d2", "max_edge": 1600, "half": False}
"""The job that the job files of the seeds belong to."""


def _arrays() -> dict[str, np.ndarray]:
    return {
        name: np.full(shape, place, "<f4") for place, (name, shape) in enumerate(PARAMETER_SHAPES.items())
    }


def features(count: int = 2) -> Features:
    rng = np.random.default_rng(0)
    return Features(rng.random((count, 3)), rng.random(count), rng.random((count, 512)), (640, 480))


def _state(dtype: str = "<f4", prefix: str = checkpoints.PUBLISHED) -> object:
    return checkpoints.state_dict(
        {
            name: checkpoints.repeated(k, shape, dtype)
            for k, (name, shape) in enumerate(PARAMETER_SHAPES.items())
        },
        prefix,
    )


def torch_legacy() -> list[bytes]:
    whole = {"model": _state(), "epoch": 3, "history": [0.5, None, True]}
    bodies = [checkpoints.pickled(whole, True)[0], pickle.dumps({"a": [1, (2.5, b"x"), {3: "y"}]}, 4)]
    return [checkpoints.legacy(whole), checkpoints.legacy(_state("<f8", ""), 4), *bodies]


def torch_zip() -> list[bytes]:
    whole = {"model": _state(), "epoch": 3}
    bfloat16 = {"model": _state("<u2", "module.model.")}
    bodies = [checkpoints.pickled(whole, False)[0], checkpoints.pickled(bfloat16, False, 4)[0]]
    return [checkpoints.zipped(whole), checkpoints.zipped(_state(), byte_order="big"), *bodies]


def weights_h5(folder: Path) -> list[bytes]:
    d2np.weights.save(folder / "seed.h5", _arrays())
    return [(folder / "seed.h5").read_bytes()]


def keras() -> list[bytes]:
    """VGG16 as Keras 1, 2 and 3 write it, with a layer behind conv4_3 and what else is in such files."""
    import h5py

    def first(layer: str, number: int) -> tuple[str, str, str]:
        return f"{layer}", f"{layer}_W_1:0", f"{layer}_b_1:0"

    def second(layer: str, number: int) -> tuple[str, str, str]:
        return f"model_weights/vgg16/{layer}/{layer}", "kernel:0", "bias:0"

    def third(layer: str, number: int) -> tuple[str, str, str]:
        return f"layers/functional/layers/conv2d{f'_{number}' if number else ''}/vars", "0", "1"

    arrays = _arrays()
    layers = list(dict.fromkeys(name.split("/")[0] for name in arrays))
    found = []
    for names in (first, second, third):
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            file.attrs["backend"] = b"tensorflow"
            file.attrs["layer_names"] = [f"block{layer[4]}_conv{layer[6]}".encode() for layer in layers]
            file.attrs["keras_version"] = "2.15.0"
            for number, layer in enumerate([*layers, "conv5_1"]):
                group, *both = names(f"block{layer[4]}_conv{layer[6]}", number)
                kernel, bias = np.full((3, 3, 2, 2), number, "f4"), np.full(2, number, "f4")
                for name, array in zip(both, (kernel, bias), strict=True):
                    file[f"{group}/{name}"] = array
                file[group].attrs["weight_names"] = [f"{group}/{name}".encode() for name in both]
        found.append(stream.getvalue())
    return found


def safetensors() -> list[bytes]:
    """State dicts of a D2-Net and of VGG16 in torchvision and timm, and headers of such."""
    behind = {"features.24.weight": (2, 2, 3, 3), "features.24.bias": (2,)}
    head = {"pre_logits.fc1.weight": (2, 2, 7, 7), "head.fc.bias": (2,)}
    headers = [
        _safetensors_header("F32", checkpoints.PUBLISHED, {}),
        _safetensors_header("F64", "module.model.", {}),
        _safetensors_header("F16", "features.", {**behind, "classifier.0.weight": (3, 2)}),
        _safetensors_header("BF16", "features.", {**behind, **head}),
    ]
    return [*map(safetensors_around, headers), *headers]


def _safetensors_header(kind: str, prefix: str, more: dict[str, tuple[int, ...]]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    names = checkpoints.state_dict(dict(PARAMETER_SHAPES), prefix)
    place = 0
    for name, shape in {**names, **more}.items():
        size = prod(shape) * {"F64": 8, "F32": 4}.get(kind, 2)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    return json.dumps(header, separators=(",", ":")).encode()


def safetensors_around(header: bytes) -> bytes:
    """Return a file with any bytes as its header."""
    return struct.pack("<Q", len(header)) + header + bytes(range(64)) * 50


EDGE = 32
"""Rows and columns of the images of :func:`tiff_around`."""

_CODECS: dict[int, Callable[[Any], bytes]] = {
    1: lambda image: image.tobytes(),
    8: lambda image: imagecodecs.zlib_encode(image.tobytes()),
    5: lambda image: imagecodecs.lzw_encode(image.tobytes()),
    32773: lambda image: imagecodecs.packbits_encode(image.tobytes()),
    34925: lambda image: imagecodecs.lzma_encode(image.tobytes()),
    50000: lambda image: imagecodecs.zstd_encode(image.tobytes()),
    7: lambda image: imagecodecs.jpeg8_encode(image, subsampling="444"),
    33007: lambda image: imagecodecs.jpeg8_encode(image),
    4: lambda image: image.tobytes()[:100],
    34712: lambda image: imagecodecs.jpeg2k_encode(image),
    33005: lambda image: imagecodecs.jpeg2k_encode(image, codecformat="j2k"),
    34933: lambda image: imagecodecs.png_encode(image),
    50001: lambda image: imagecodecs.webp_encode(image, lossless=True),
    50002: lambda image: imagecodecs.jpegxl_encode(image),
    34934: lambda image: imagecodecs.jpegxr_encode(image),
    34887: lambda image: imagecodecs.lerc_encode(image),
}


def tiff() -> list[bytes]:
    """TIFF files, and what is in their strips and tiles: also images that are larger than these."""
    import tifffile

    noise = np.random.default_rng(0).integers(0, 256, (EDGE, EDGE, 3), dtype=np.uint8)
    found = []
    for options in (
        {"compression": "jpeg", "tile": (16, 16)},
        {"compression": "jpeg2000", "rowsperstrip": 16, "byteorder": ">"},
        {"compression": "png", "rowsperstrip": 16},
        {"compression": "webp", "tile": (16, 16)},
        {"compression": "jpegxl", "bigtiff": True},
        {"compression": "zlib", "predictor": True, "planarconfig": "separate"},
        {"compression": "lerc", "rowsperstrip": 16},
        {"compression": None},
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, noise, photometric="rgb", metadata=None, **options)
        found.append(stream.getvalue())
    for number, encode in enumerate(_CODECS.values()):
        found.append(bytes([number, 0, 0]) + encode(noise))
        found.append(bytes([number, 0, 1]) + encode(np.zeros((200, 100, 3), np.uint8)))
    return [data for data in found if len(data) < _LONGEST_SEED]


def tiff_around(data: bytes) -> bytes:
    """Return a TIFF with any bytes as its strip or tile; the first three say what that is said to be."""
    number, layout, predictor = (*data[:3], 0, 0, 0)[:3]
    code = list(_CODECS)[number % len(_CODECS)]
    strip = _right_sums(data[3:]) if code == 34933 else data[3:]
    samples, bits, tiled = (3, 1, 4)[layout % 3], (8, 16, 1)[layout // 3 % 3], layout & 64
    colours = 6 if code in (7, 33007) else 2
    sizes = struct.pack("<4H", *[bits] * 4)
    entries = [(256, EDGE), (257, EDGE), (259, code), (262, colours if samples > 1 else 1), (277, samples)]
    entries += [(317, predictor % 4 or 1), (284, 1 + (layout >> 7))]
    entries += [(322, EDGE), (323, EDGE), (324, 16), (325, len(strip))] if tiled else []
    entries += [] if tiled else [(273, 16), (278, EDGE), (279, len(strip))]
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries]
    tags.append(struct.pack("<HHII", 258, 3, samples, 8 if samples > 2 else bits))
    tags.sort(key=lambda tag: struct.unpack("<H", tag[:2]))
    directory = struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 16 + len(strip)) + sizes + strip + directory


def _right_sums(png: bytes) -> bytes:
    """Return a PNG file with right checksums, as far as it has the form of one."""
    data, place = bytearray(png), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 <= len(data):
            data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


def onnx() -> list[bytes]:
    # Seen with two channels everywhere, the first layer's three are not true to ONNX's own shape inference.
    import onnx as package

    from d2np.weights.onnx import serialize

    check, package.checker.check_model = package.checker.check_model, lambda *_, **__: None
    try:
        return [serialize(_arrays())]
    finally:
        package.checker.check_model = check


def features_h5(folder: Path) -> list[bytes]:
    import h5py

    path = folder / "seed.h5"
    found = []
    for half in (False, True):
        with h5py.File(path, "w") as file:
            file.attrs["d2np_settings"] = json.dumps({**SETTINGS, "half": half})
            file.attrs["d2np_job"] = "0" * 16
            found_with = replace(features(1), global_descriptor=np.ones(512, np.float32))
            arrays = hloc.arrays_of(found_with, half=half)
            hloc.put(file, "a/b.jpg", arrays, hloc.attributes_of(1.0), '{"size": 3, "mtime_ns": 1}')
        found.append(path.read_bytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("c.jpg/keypoints", data=np.ones((3, 2), "f4"), compression="gzip")
        file["c.jpg/scores"] = np.ones(3, "f4")
        file.create_dataset(
            "c.jpg/descriptors", data=np.ones((512, 3), "f2"), chunks=(64, 3), compression="gzip"
        )
        file["c.jpg/image_size"] = np.array([640.0, 480.0])
    found.append(path.read_bytes())
    with h5py.File(path, "w") as file:
        hloc_matches.write(file, "a/b.jpg", "c.jpg", Matches([[0, 1], [2, 0]], [0.5, 1]), (3, 2))
        file["a-b.jpg/c.jpg/matches0"].attrs["homography"] = np.eye(3)
    found.append(path.read_bytes())
    return found


def attributes_h5() -> list[bytes]:
    """Files with attributes of many types under the names that are read, and little else."""
    import h5py

    text = h5py.string_dtype()
    lists = np.empty(1, object)
    lists[0] = np.array([1, 2], "i4")
    values: list[tuple[object, object]] = [
        ("d2", h5py.string_dtype("utf-8", 2)),
        ("a longer text", text),
        (np.array([("x", 1)], [("name", text), ("number", "i4")]), None),
        (np.zeros((), [("number", "<i8", (3,)), ("text", "S5")]), None),
        (np.zeros(2, [("number", "u1")]), None),
        (lists, h5py.vlen_dtype(np.dtype("i4"))),
        (1, h5py.enum_dtype({"A": 0, "B": 1})),
        (np.void(b"abcd"), None),
        (np.float16(2), None),
        (h5py.Empty("S4"), None),
        (2, ">u2"),
    ]
    found = []
    for value, kind in values:
        for first, libver in ((False, "earliest"), (True, "latest")):
            stream = io.BytesIO()
            with h5py.File(stream, "w", libver=libver) as file:
                told = {"format_version": 2, "architecture": np.bytes_("D2-Net")}
                told["preprocessing"] = np.bytes_("caffe")
                for name, plain in told.items():
                    file.attrs[name] = plain
                if first:
                    file.attrs.create("format_version", value, dtype=kind)
                for holder, name in (
                    *((file, f"source_{name}") for name in ("name", "sha256", "url")),
                    *((file, f"d2np_{name}") for name in ("settings", "job")),
                    (file.create_group("a.jpg"), "d2np_stamp"),
                ):
                    holder.attrs.create(name, value, dtype=kind)
            found.append(stream.getvalue())
    return found


def features_npz(folder: Path) -> list[bytes]:
    npz.write(folder / "seed.d2-net", features())
    member = io.BytesIO()
    np.save(member, features().keypoints)
    whole = (folder / "seed.d2-net").read_bytes()
    found = [whole, member.getvalue()]
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(packed, "w", compression) as file:
            for name in source.namelist():
                file.writestr(name, source.read(name))
        found.append(packed.getvalue())
    return found


def lists() -> list[bytes]:
    return [
        b"# images\na.jpg\nsub/b.jpg\n../c.jpg\n/d.jpg\n\n",
        "\ufeffà.jpg\r\n b c.png \r\n".encode(),
        b"a.jpg sub/b.jpg\nsub/b.jpg c.jpg\n",
        b"a.jpg\tno such file\nb\\tc.jpg\tnot an image\n",
        b"# kapture format: 1.1\n# timestamp, device_id, image_path\n0, camera_00000, a.jpg\n1, c, b.jpg\n",
    ]


def entries() -> list[bytes]:
    """Names, a line each."""
    return [
        b"a.jpg\nsub/b.jpg\nkeypoints\na.jpg/x.jpg",
        "à b.jpg\n..\n../out2/x.jpg\n/tmp/x.jpg".encode(),
        b".\nlink/x.jpg\nfile\n.unfinished",
        b"%2Ftmp%2Fx.jpg\na//b.jpg\n./a.jpg\nsub/../../x.jpg",
        b"sub\na.jpg.d2-net/x.jpg\n" + b"x" * 250 + b".jpg\n\xff.jpg",
    ]


def index_pages() -> list[bytes]:
    """Pages, one after the other."""
    top = b"""<html><a href="../">up</a> <a href="?C=N">sort</a> <A class=x HREF='a%20b.jpg'>a</A>
        <a href="sub/">s</a>"""
    sub = b"""<a href="/a b/c.jpg">x</a><a href=http://host/a%20b/sub/deep/>y</a>
        <a href="d.jpg?x=1&amp;y=2#z">"""
    return [
        top + b"\n--\n" + sub + b"\n--\n" + top,
        top + b"\n--\n" + sub + b"\n--\n" + sub,
        sub + b"\n--\n" + top,
        b"<a " * 100 + b"\n--\n" + b"<a href= " * 30,
    ]


TOKEN = "00ff" * 4


def about(**changed: object) -> bytes:
    """Return the entry of an archive for one array, ``0/0/scores``."""
    group = {"name": "a/b.jpg", "stamp": '{"size": 3}', "count": 2, "blocks": 1, "attributes": {}}
    return json.dumps({"members": 1, "groups": [{**group, **changed}]}).encode()


def archive() -> bytes:
    """Features of an image in two blocks, as a job stores them."""
    stream = io.BytesIO()
    arrays = hloc.arrays_of(features(1))
    of_keypoints = {key: arrays[key] for key in hloc.KEYPOINT_AXES if key in arrays}
    group = Group("a.jpg", None, attributes=hloc.attributes_of(1.0))
    write(stream, [(group, [(1, arrays), (1, of_keypoints)])])
    return stream.getvalue()


def archives() -> list[bytes]:
    stream = io.BytesIO()
    np.save(stream, np.ones((0, 2), "i8"))
    return [archive(), about(), about(name="../x", blocks=2, stamp=None), stream.getvalue()]


def jobs() -> list[bytes]:
    job = {"format": 2, "settings": SETTINGS, "anew": False, "token": TOKEN}
    return [json.dumps(job, indent=1).encode() + b"\n--\n" + one for one in archives()]
