"""A kapture folder, format 1.1, as the published ``extract_kapture.py`` adds features to it.

::

    reconstruction/keypoints/TYPE/keypoints.txt         name, number type, numbers for each keypoint
    reconstruction/keypoints/TYPE/IMAGE.kpt             (N, 3) float32: x, y, scale; nothing else
    reconstruction/descriptors/TYPE/descriptors.txt     and the keypoints' type, and the norm
    reconstruction/descriptors/TYPE/IMAGE.desc          (N, 512) float32
    sensors/sensors.txt                                 cameras
    sensors/records_camera.txt                          which camera took which image
    sensors/records_data/IMAGE                          the images

TYPE is the name of the weights' file without its extension, as published: features of several weights lie
side by side. Scores are not kept, and positions are those of d2np, both as published. Where the folder is a
kapture one already, its cameras and records stay; each image that it does not know gets a camera of its
own, of which nothing is known but the size of its images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import streams
from ..atomic import replacing
from ..errors import FormatError, ImageError
from ..features import DESCRIPTOR_SIZE, Features
from ..images.names import inside, leads_out, make_room

FORMAT = "# kapture format: 1.1"

_NUMBER = np.dtype("<f4")
_KEYPOINTS, _DESCRIPTORS = (
    ("keypoints", ".kpt", 3),
    ("descriptors", ".desc", DESCRIPTOR_SIZE),
)
_LONGEST_TIMESTAMP = 20  # nanoseconds have 19 digits
_SENSORS, _RECORDS = "# sensor_id, name, sensor_type, [sensor_params]+", "# timestamp, device_id, image_path"


def write(root: Path, kind: str, name: str, features: Features) -> None:
    """Write the features of one image; its keypoints come last.

    Parameters
    ----------
    root : Path
        The kapture folder.
    kind : str
        TYPE, see above.
    name : str
        The image's path inside ``sensors/records_data``.
    features : Features

    Raises
    ------
    ImageError
        If there is no place for a file of this name.
    FormatError
        If a file cannot be written.
    """
    for what, values in ((_DESCRIPTORS, features.descriptors), (_KEYPOINTS, features.keypoints)):
        path = _file(root, what, kind, name)
        make_room(path, root)
        try:
            with replacing(path, follow=False) as stream:
                stream.write(np.ascontiguousarray(values, _NUMBER).tobytes())
        except OSError as error:
            raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from None


def is_complete(root: Path, kind: str, name: str) -> bool:
    """Whether there are keypoints and descriptors of an image, and as many of the one as of the other."""
    counts = []
    for what in (_DESCRIPTORS, _KEYPOINTS):
        try:
            size = _file(root, what, kind, name).stat().st_size
        except OSError:
            return False
        counts.append(divmod(size, what[2] * _NUMBER.itemsize))
    return counts[0] == counts[1] and counts[0][1] == 0


def configure(root: Path, kind: str) -> None:
    """Say what the files of this type hold, or check what is said there already.

    Raises
    ------
    FormatError
        If a file cannot be written, says something else, or is a link to one outside of the folder.
    """
    for what, more in ((_KEYPOINTS, ()), (_DESCRIPTORS, (kind, "L2"))):
        path = root / "reconstruction" / what[0] / kind / f"{what[0]}.txt"
        _check_inside(path, root)
        fields = ("d2net", "float32", str(what[2]), *more)
        title = "# name, dtype, dsize" + (", keypoints_type, metric_type" if more else "")
        if path.exists():
            (there, *_) = [*_rows(path), ()]
            # The name is for people, says kapture.
            if tuple(there[1:]) != fields[1:]:
                raise FormatError(f"{path} is about other features: {', '.join(there)}")
        else:
            _write_text(path, f"{FORMAT}\n{title}\n{', '.join(fields)}\n")


def type_of(weights: str | None) -> str:
    """TYPE for weights from a file of this name."""
    stem = Path(weights or "").stem.strip(" .")
    return stem if stem and stem.isprintable() and "," not in stem else "d2_net"


def types(root: Path) -> list[str]:
    """Return each TYPE, see above, that the folder holds keypoints of, in alphabetical order."""
    return sorted(path.parent.name for path in root.glob("reconstruction/keypoints/*/keypoints.txt"))


class Records:
    """Which images a kapture folder has, from which cameras: ``sensors.txt`` and ``records_camera.txt``.

    Both are only ever added to, a whole line at once, so that they can be read at any moment.

    Parameters
    ----------
    root : Path
        The kapture folder, which need not exist.

    Raises
    ------
    FormatError
        If a file is there but cannot be read, or is of another version of kapture.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sensors = root / "sensors" / "sensors.txt"
        self._records = root / "sensors" / "records_camera.txt"
        self._cameras: set[str] = set()
        self._images: set[str] = set()
        self._next = 0
        if self._sensors.exists():
            _check_version(self._sensors)
            self._cameras = {row[0] for row in _rows(self._sensors)}
        if self._records.exists():
            _check_version(self._records)
            for row in _rows(self._records):
                if len(row) != 3 or not (
                    row[0].isascii() and row[0].isdigit() and len(row[0]) <= _LONGEST_TIMESTAMP
                ):
                    raise FormatError(f"{self._records}: not kapture's records: {', '.join(row)}")
                self._next = max(self._next, int(row[0]) + 1)
                self._images.add(row[2])

    def __contains__(self, name: str) -> bool:
        return name in self._images

    def start(self) -> None:
        """See that both files are there.

        Raises
        ------
        FormatError
            If they cannot be written, or are links to files outside of the folder.
        """
        for path, title in ((self._sensors, _SENSORS), (self._records, _RECORDS)):
            _check_inside(path, self._root)
            if not path.exists():
                _write_text(path, f"{FORMAT}\n{title}\n")

    def add(self, name: str, image_size: tuple[int, int]) -> None:
        """Add an image, with a camera of its own of which nothing is known but the size of its images.

        Raises
        ------
        FormatError
            If the files cannot be written.
        """
        while (camera := f"camera_{self._next:05d}") in self._cameras:
            self._next += 1
        width, height = image_size
        _append(self._sensors, f"{camera}, , camera, UNKNOWN_CAMERA, {width}, {height}\n")
        _append(self._records, f"{self._next}, {camera}, {name}\n")
        self._cameras.add(camera)
        self._images.add(name)
        self._next += 1


def check_name(name: str) -> None:
    """Find out whether kapture's tables, which know no quotes, can hold an image of this name.

    Raises
    ------
    ImageError
        If not.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ImageError(f"{name!r}: the name is not UTF-8, which kapture needs: rename the image") from None
    if "," in name or name != name.strip() or len(name.splitlines()) != 1:
        raise ImageError(
            f"{name}: kapture's tables cannot hold a name with a comma, a line break, or spaces at its ends: "
            "rename the image"
        )


def image_of(root: Path, name: str) -> Path:
    """Return where kapture looks for an image."""
    return inside(root / "sensors" / "records_data", name)


def _file(root: Path, what: tuple[str, str, int], kind: str, name: str) -> Path:
    path = inside(root / "reconstruction" / what[0] / kind, name)
    return path.parent / f"{path.name}{what[1]}"


def _check_inside(path: Path, root: Path) -> None:
    if leads_out(path, root):
        raise FormatError(
            f"{path}: cannot be written: a link leads out of {root}: put what it links to there"
        )


def _check_version(path: Path) -> None:
    first = next(iter(_lines(path)), "").strip()
    if first != FORMAT:
        raise FormatError(
            f"{path}: {FORMAT.strip('# ')!r} is expected in its first line, not {first[:80]!r}: kapture's "
            "kapture_upgrade_1_0_to_1_1 brings older folders up to date"
        )


def _rows(path: Path) -> Iterator[list[str]]:
    for line in _lines(path):
        if line.strip() and not line.startswith("#"):
            yield [field.strip() for field in line.split(",")]


def _lines(path: Path) -> list[str]:
    try:
        return streams.read(path).decode("utf-8").split("\n")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not a text") from None


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, follow=False) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from None


def _append(path: Path, line: str) -> None:
    try:
        with open(path, "r+b", buffering=0) as stream:
            # Others may have left out the last line's end.
            stream.seek(-1, os.SEEK_END)
            text = line if stream.read(1) == b"\n" else f"\n{line}"
            stream.write(text.encode())
    except OSError as error:
        raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from None
