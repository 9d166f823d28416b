"""Small valid files of each kind, made when they are needed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import checkpoints
import numpy as np

import d2np
from d2np.dataset.shards import Record, write
from d2np.features import Features, Matches
from d2np.formats import hloc, hloc_matches, mat, npz
from d2np.layers import PARAMETER_SHAPES

SETTINGS = {"detector": "d2", "max_edge": 1600, "half": False}
"""What the job files of the seeds belong to."""


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


def onnx() -> list[bytes]:
    # Seen with two channels everywhere, the first layer's three are not true to ONNX's own shape inference.
    import onnx as package

    from d2np.weights.onnx import serialize

    check, package.checker.check_model = package.checker.check_model, lambda *_, **__: None
    try:
        return [
            serialize(_arrays(), relu=relu, preprocessing=how)
            for relu, how in ((True, None), (False, "torch"))
        ]
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
            arrays = hloc.arrays_of(features(1), half=half)
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


def features_mat(folder: Path) -> list[bytes]:
    import scipy.io

    mat.write(folder / "seed.mat", features(1))
    packed = io.BytesIO()
    arrays = {name: getattr(features(1), name) for name in ("keypoints", "scores", "descriptors")}
    scipy.io.savemat(packed, arrays, do_compression=True)
    old = io.BytesIO()
    scipy.io.savemat(old, arrays, format="4")
    whole = (folder / "seed.mat").read_bytes()
    _, size = struct.unpack_from("<II", whole, 128)
    return [whole, packed.getvalue(), old.getvalue(), whole[128 : 128 + 8 + size]]


def lists() -> list[bytes]:
    return [
        b"# pictures\na.jpg\nsub/b.jpg\n../c.jpg\n/d.jpg\n\n",
        "\ufeffà.jpg\r\n b c.png \r\n".encode(),
        b"a.jpg sub/b.jpg\nsub/b.jpg c.jpg\n",
        b"a.jpg\tno such file\nb\\tc.jpg\tnot a picture\n",
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
    """A pattern, and pages."""
    top = b"""<html><a href="../">up</a> <a href="?C=N">sort</a> <A class=x HREF='a%20b.jpg'>a</A>
        <a href="sub/">s</a>"""
    sub = b"""<a href="/a b/c.jpg">x</a><a href=http://host/a%20b/sub/deep/>y</a>
        <a href="d.jpg?x=1&amp;y=2#z">"""
    return [
        b"**\n--\n" + top + b"\n--\n" + sub + b"\n--\n" + top,
        b"*/**/d*\n--\n" + top + b"\n--\n" + sub + b"\n--\n" + sub,
        b"s[tu]b/*\n--\n" + sub + b"\n--\n" + top,
        b"**\n--\n" + b"<a " * 100 + b"\n--\n" + b"<a href= " * 30,
    ]


def record_header() -> bytes:
    arrays = [[key, array.dtype.str, array.shape] for key, array in hloc.arrays_of(features(1)).items()]
    values = {"stamp": '{"size": 3, "mtime_ns": 1}', "keypoints": 1, "attributes": hloc.attributes_of(1.0)}
    return json.dumps({"name": "a/b.jpg", "values": values, "arrays": arrays}).encode()


def ending_header() -> bytes:
    """Of a record that ends pieces of which there are none."""
    arrays = [[key, array.dtype.str, array.shape] for key, array in hloc.arrays_of(features(0)).items()]
    values = {"pieces": 0, "keypoints": 0}
    return json.dumps({"name": "a/b.jpg", "values": values, "arrays": arrays}).encode()


def pieces() -> bytes:
    stream = io.BytesIO()
    arrays = hloc.arrays_of(features(1))
    for number in (1, 2):
        write(
            stream,
            Record("a.jpg", {"piece": number}, {key: arrays[key] for key in hloc.KEYPOINT_AXES}),
        )
    write(stream, Record("a.jpg", {"pieces": 2, "keypoints": 2}, hloc.arrays_of(features(0))))
    return stream.getvalue()


def shards() -> list[bytes]:
    stream = io.BytesIO()
    write(stream, Record("a.jpg", {"stamp": None}, {"scores": np.ones(3), "none": np.ones((0, 2), "i8")}))
    write(stream, Record("b.jpg", {"keypoints": 1}, {"mask": np.array([True])}))
    return [
        stream.getvalue(),
        record_header(),
        b'{"name": "c", "values": {}, "arrays": [["x", "<f4", [1, 2]]]}',
        pieces(),
        ending_header(),
    ]


def jobs() -> list[bytes]:
    job = {"format": 1, "settings": SETTINGS, "anew": False, "token": "00ff" * 4}
    (raw, *headers) = shards()
    return [json.dumps(job, indent=1).encode() + b"\n--\n" + shard for shard in (raw, *headers)]
