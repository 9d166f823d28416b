"""The harnesses: one function for each kind of file, which reads any bytes as that kind.

``TARGETS[name].run(data)`` returns where d2np took the bytes or refused them with one of its own errors.
Everything else comes out: that is a bug.
"""

from __future__ import annotations

import atexit
import io
import os
import pickletools
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import checkpoints
import h5py
import numpy as np
from numpy.typing import NDArray

import d2np
from d2np import dataset
from d2np.dataset import archives, changes
from d2np.dataset.extraction import not_held
from d2np.features import Features, Matches
from d2np.formats import hloc, hloc_matches, kapture, npz
from d2np.images import index_pages, remote
from d2np.images.open import open_image, open_source
from d2np.weights import read as read_weights
from d2np.weights import sniff

from . import limits, seeds

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each harness, of inputs that were once read wrongly."""

_MOST_NAMES = 3
_MOST_ENTRIES = 3


def folder() -> Path:
    """A folder of this process, in memory where there is such a file system."""
    global _folder
    if _folder is None:
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None
        _folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=place)
        atexit.register(_folder.cleanup)
    return Path(_folder.name)


_folder: tempfile.TemporaryDirectory[str] | None = None


@dataclass(frozen=True)
class Target:
    """A harness.

    Attributes
    ----------
    name : str
    read : callable
        Reads bytes, and raises what the reader raises.
    make_seeds : callable
        Small valid files.
    words : tuple of bytes
        What the format has a meaning for.
    memory : int
        Bytes that the process may ask for.
    """

    name: str
    read: Callable[[bytes], object]
    make_seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()
    memory: int = limits.MEMORY

    def run(self, data: bytes) -> None:
        """Read any bytes; only what is no :class:`d2np.Error` comes out."""
        try:
            self.read(data)
        except d2np.Error as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, MemoryError):
                    raise limits.TooMuchMemory(str(error)) from cause
                cause = cause.__context__

    @cached_property
    def seeds(self) -> list[bytes]:
        """Valid files, and those of the corpus."""
        return [*self.make_seeds(), *(path.read_bytes() for path in sorted((CORPUS / self.name).glob("*")))]


def _weights(data: bytes) -> list[NDArray[Any]]:
    return list(read_weights(io.BytesIO(data), folder() / "d2")[0].values())


def _torch_legacy(data: bytes) -> None:
    # What is no such file is taken for its pickle, so that this gets to be read.
    is_whole = data.startswith(b"\x80") and sniff.container(data[: sniff.HEAD_SIZE]) == "PyTorch"
    whole = data if is_whole else checkpoints.legacy_around(data, _LEGACY)
    _weights(whole)


def _torch_zip(data: bytes) -> None:
    # Checksums would keep a changed pickle inside an archive from being read.
    whole = data if data.startswith(b"PK") else checkpoints.zipped_around(data, _STORAGES)
    _weights(whole)


_LEGACY = {str(94757629632608 + 64 * key): checkpoints.Storage(np.zeros(1, "<f4")) for key in range(20)}
_STORAGES = {str(key): checkpoints.Storage(np.zeros(1, "<f4")) for key in range(20)}


def _weights_h5(data: bytes) -> None:
    limits.read_twice(lambda: _weights(data))


def _safetensors(data: bytes) -> None:
    # What is no such file is taken for its header, with the right length and enough bytes behind it.
    whole = data if sniff.container(data) == "safetensors" else seeds.safetensors_around(data)
    _weights(whole)


def _tiff(data: bytes) -> None:
    # What is no TIFF is taken for a strip or tile, behind three bytes that say how it is stored.
    whole = data if data[:2] in (b"II", b"MM") else seeds.tiff_around(data)

    def rows() -> None:
        with open_source(whole, max_edge=None, max_sum_edges=None, max_pixels=_MOST_PIXELS) as source:
            _few(source.given)
            for first in range(0, source.shape[0], _ROWS):
                source.read(first, min(first + _ROWS, source.shape[0]))

    with limits.bounded_resident(_MOST_RESIDENT):
        _each(lambda: _few(open_image(whole, max_pixels=_MOST_PIXELS).shape), rows)


def _few(shape: tuple[int, ...]) -> None:
    if prod(shape[:2]) > _MOST_PIXELS:
        raise AssertionError(f"{shape} is above the limit on pixels")


_MOST_PIXELS = 1 << 16
_MOST_RESIDENT = 64 << 20
_ROWS = 40


def _onnx(data: bytes) -> None:
    _weights(data)


def _features_h5(data: bytes) -> None:
    path = folder() / "features.h5"
    path.write_bytes(data)
    calls: list[Callable[[], object]] = [
        lambda: dataset.MatchSettings().recorded(path),
        lambda: dataset.HlocOutput(path, seeds.SETTINGS).close(),
    ]
    with suppress(d2np.Error), hloc.opened(path) as file:
        for name in _some(lambda: hloc.names(file)):
            _each(
                lambda name=name: limits.read_twice(lambda: _arrays(hloc.read(file, name))),
                lambda name=name: hloc.read_keypoints(file, name),
                lambda name=name: hloc.read_uncertainty(file, name),
                lambda name=name: hloc.read_global_descriptors(file, [name, name]),
                lambda name=name: hloc.stamp_of(file, name),
            )
        for name in _some(lambda: hloc_matches.pair_names(file)):
            _each(
                lambda name=name: limits.read_twice(lambda: _arrays(hloc_matches.read_pair(file, name))),
                lambda name=name: hloc_matches.read(file, *reversed(name.split("/", 1))),
                lambda name=name: hloc_matches.read_model(file, name),
            )
    _each(*calls)


def _attributes_h5(data: bytes) -> None:
    path = folder() / "attributes.h5"
    path.write_bytes(data)
    calls: list[Callable[[], object]] = [
        lambda: _weights(data),
        lambda: dataset.MatchSettings().recorded(path),
        lambda: dataset.HlocOutput(path, seeds.SETTINGS).close(),
    ]
    with suppress(d2np.Error), hloc.opened(path) as file:
        hloc.stamp_of(file, "a.jpg")
    _each(*calls)


def _arrays(found: Features | Matches) -> list[NDArray[Any]]:
    return [value for value in vars(found).values() if isinstance(value, np.ndarray)]


def _features_npz(data: bytes) -> None:
    path = folder() / "a.jpg.d2-net"
    if not data.startswith(b"PK"):
        # An array in an archive with right checksums.
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name in ("keypoints", "scores", "descriptors"):
                archive.writestr(f"{name}.npy", data if name == "keypoints" else _npy(name))
        data = stream.getvalue()
    path.write_bytes(data)
    npz.is_complete(path)
    npz.read(path, (640, 480))


def _npy(name: str) -> bytes:
    stream = io.BytesIO()
    np.save(stream, getattr(seeds.features(), name))
    return stream.getvalue()


def _lists(data: bytes) -> None:
    root = folder() / "lists"
    (root / "sensors").mkdir(parents=True, exist_ok=True)
    path = root / "list.txt"
    path.write_bytes(data)
    for name in ("sensors.txt", "records_camera.txt"):
        (root / "sensors" / name).write_bytes(data)
    entry = dataset.Entry(root / "a.jpg", "a.jpg")
    _each(
        lambda: dataset.listing([f"@{path}"]),
        lambda: hloc_matches.read_pair_list(path),
        lambda: changes.Failures(path).known(entry),
        lambda: kapture.Records(root),
    )


class Escaped(Exception):
    """Something was to be written outside of an output."""


_inside: str | None = None
"""The only folder in which this process may write, while it is set."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside is None:
        return
    paths: tuple[Any, ...] = ()
    opened = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if opened or event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime", "os.chmod"):
        paths = arguments[:1]
    elif event in ("os.rename", "os.link"):
        paths = arguments[:2]
    elif event == "os.symlink":
        paths = arguments[1:2]
    for path in paths:
        if isinstance(path, int):
            continue
        # Links are made, removed and renamed themselves; only what is opened is where they lead.
        place, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        whole = os.path.realpath(path) if event == "open" else os.path.join(os.path.realpath(place), name)
        if os.path.commonpath([_inside, os.fsdecode(whole)]) != _inside:
            raise Escaped(f"{event} of {whole!r}")


_watched = False


def _names(data: bytes) -> None:
    """Names of entries: every path written is inside the output, and no name is lost."""
    global _watched
    if not _watched:
        _watched = True
        sys.addaudithook(_watch)
    root = folder() / "names"
    shutil.rmtree(root, ignore_errors=True)
    for place in (root / "out" / "reconstruction" / "keypoints", root / "out2"):
        place.mkdir(parents=True)
    image, bait = root / "a.jpg", root / "out2" / "bait"
    image.write_bytes(b"")
    bait.write_bytes(b"bait")
    for link, target in (("link", "../out2"), ("file.d2-net", "../out2/bait"), ("sensors", "../out2")):
        (root / "out" / link).symlink_to(target)
    texts = data.decode("utf-8", "surrogateescape").split("\n")[:_MOST_ENTRIES]
    (root / "list.txt").write_bytes(data)
    listed: list[dataset.Entry] = []
    _each(lambda: listed.extend(dataset.listing([f"@{root / 'list.txt'}"])[:_MOST_ENTRIES]))
    page = [f"/in/{text}" for text in texts]
    for file, name in remote._entries(SimpleNamespace(unstrip_protocol=str), "http://in/", page, "/in"):
        listed.append(dataset.Entry(file, name))
    _written(root / "out", [*listed, *(dataset.Entry(image, text) for text in texts)])


def _written(out: Path, entries: list[dataset.Entry]) -> None:
    global _inside
    features = seeds.features()
    image = out.parent / "a.jpg"
    entries = [dataset.Entry(image, name) for name in dict.fromkeys(entry.name for entry in entries)]
    outputs = dataset.NpzOutput(out), dataset.KaptureOutput(out)
    with h5py.File("names.h5", "w", driver="core", backing_store=False) as file:
        stored = set()
        for entry in entries:
            with suppress(d2np.Error):
                hloc.write(file, entry.name, features)
                stored.add(entry.name)
        if set(hloc.names(file)) != stored:
            raise AssertionError(f"{sorted(stored)} were stored, {hloc.names(file)} are there")
    _inside = os.path.realpath(out)
    try:
        for output in outputs:
            not_held(entries, output)
            # Also those that the job has refused.
            for entry in entries:
                _each(lambda entry=entry, output=output: output.put(entry, features, 1.0))
    finally:
        _inside = None


def _index_pages(data: bytes) -> None:
    """Pages that a server sends one after the other: what is asked for is in the folder."""
    pages = data.split(b"\n--\n")
    top = "http://host/a%20b/"
    asked: list[str] = []

    def read(url: str, most: int) -> bytes:
        asked.append(url)
        if len(asked) > max(len(pages), 1):
            raise FileNotFoundError(url)
        return b"".join(pages[len(asked) - 1 : len(asked)])

    found = index_pages.files(top, read)
    if len({*asked, *found}) < len(asked) + len(found):
        raise AssertionError("something is asked for twice")
    for url in (*asked, *found):
        if not url.startswith(top) or urlsplit(url).hostname != "host":
            raise Escaped(url)


def _archives(data: bytes) -> None:
    try:
        archive = archives.Archive(io.BytesIO(_archive(data)))
        for name in archive.groups:
            list(archive.blocks(name))
    except archives.Damaged as error:
        raise d2np.FormatError(str(error)) from None


def _archive(data: bytes) -> bytes:
    """The bytes, or if they are no archive, one in which they are an array, or tell what is in it."""
    if data.startswith(b"PK"):
        return data
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        array = data if data.startswith(b"\x93NUMPY") else _npy("scores")
        about = seeds.about() if data.startswith(b"\x93NUMPY") else data
        archive.writestr("0/0/scores.npy", array)
        np.save(archive.open("about.npy", "w"), np.array(about))
    return stream.getvalue()


def _jobs(data: bytes) -> None:
    job, _, archive = data.partition(b"\n--\n")
    path = folder() / "job.h5"
    parts = folder() / "job.h5.parts"
    parts.mkdir(exist_ok=True)
    for left in (path, *parts.iterdir()):
        left.unlink(missing_ok=True)
    (parts / "job.json").write_bytes(job)
    (parts / f"{seeds.TOKEN}-1.npz").write_bytes(_archive(archive))
    output = dataset.HlocOutput(path, {key: value for key, value in seeds.SETTINGS.items() if key != "half"})
    try:
        output.finish()
    finally:
        output.close()


def _some(names: Callable[[], list[str]]) -> list[str]:
    return names()[:_MOST_NAMES]


def _each(*calls: Callable[[], object]) -> None:
    """All of the calls; errors of d2np that are no sign of too much memory are passed over."""
    for call in calls:
        Target("", lambda _, call=call: call(), list).run(b"")


_OPCODES = bytes(ord(info.code) for info in pickletools.opcodes)
_PICKLE = tuple(_OPCODES[k : k + 1] for k in range(len(_OPCODES)))

TARGETS = {
    target.name: target
    for target in (
        Target("torch-legacy", _torch_legacy, seeds.torch_legacy, _PICKLE),
        Target(
            "torch-zip", _torch_zip, seeds.torch_zip, (*_PICKLE, b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
        ),
        Target(
            "weights-h5",
            _weights_h5,
            lambda: seeds.weights_h5(folder()),
            (b"TREE", b"HEAP", b"SNOD", b"OHDR"),
        ),
        Target(
            "keras",
            _weights_h5,
            seeds.keras,
            (b"TREE", b"HEAP", b"SNOD", b"OHDR", b"block1_conv1", b"block5", b"conv2d_1", b"vars"),
        ),
        Target(
            "safetensors",
            _safetensors,
            seeds.safetensors,
            (
                *(b"[", b"{", b"]", b"}", b",", b"null", b"-1", b"0.5", b'"F32"', b'"BF16"', b'"I8"'),
                *(b'"shape"', b'"features."', b'"__metadata__"'),
            ),
        ),
        Target(
            "tiff",
            _tiff,
            seeds.tiff,
            (
                *(b"\xff\xd8", b"\xff\xc0", b"\xff\xd9", b"\xff\x4f\xff\x51", b"\xff\x90", b"IHDR", b"acTL"),
                *(b"jp2c", b"VP8 ", b"VP8X", b"ANMF", b"\xff\x0a", b"JXL ", b"Lerc2 "),
            ),
            memory=2 << 30,
        ),
        Target(
            "onnx",
            _onnx,
            seeds.onnx,
            (b"Identity", b"Constant", b"Clip", b"location", b"../", b"planes", b"map"),
        ),
        Target(
            "features-h5",
            _features_h5,
            lambda: seeds.features_h5(folder()),
            (b"TREE", b"HEAP", b"SNOD", b"GCOL"),
        ),
        Target(
            "attributes-h5",
            _attributes_h5,
            seeds.attributes_h5,
            (b"TREE", b"HEAP", b"GCOL", b"OHDR", b"FRHP", b"BTHD"),
        ),
        Target(
            "features-npz",
            _features_npz,
            lambda: seeds.features_npz(folder()),
            (b"PK\x01\x02", b"'<f4'", b"'|O'", b"(", b"L"),
        ),
        Target(
            "lists", _lists, seeds.lists, (b"\0", b"\n", b"#", b"\xff", b"..", b"/", b"\t", b",", b"\xc2\x85")
        ),
        Target(
            "names",
            _names,
            seeds.entries,
            (
                b"..",
                b"../",
                b"/",
                b"//",
                b".",
                b"%2F",
                b"%2e",
                b"\0",
                b"\\",
                b"link/",
                b"out2",
                b"\x1b",
                b"a.jpg/",
            ),
        ),
        Target(
            "index-pages",
            _index_pages,
            seeds.index_pages,
            (
                *(b"<a href=", b"<a ", b'"', b"'", b">", b"<", b" ", b"\n--\n", b"../", b"//", b"/", b"?"),
                *(b"#", b"http://host/a%20b/", b"https://other/", b"%2e%2e", b"&amp;", b"&#x2f;", b"@"),
                *(b":", b"**", b"["),
            ),
        ),
        Target(
            "archives",
            _archives,
            seeds.archives,
            (b"[", b"{", b"'<f4'", b"'|O'", b"null", b"'f4,i4'", b"-1", b"PK\x01\x02", b"\x93NUMPY"),
        ),
        Target(
            "jobs",
            _jobs,
            seeds.jobs,
            (b"[", b"{", b'"format"', b"null", b'"attributes"', b'"stamp"', b"/", b".."),
        ),
    )
}
