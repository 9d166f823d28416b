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
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import streams
from ..atomic import writing
from ..errors import FormatError, ImageError
from ..features import DESCRIPTOR_SIZE, Features
from ..images.names import inside, leads_out, make_room

FORMAT = "# kapture format: 1.1"

_NUMBER = np.dtype("<f4")
# In the order in which they are written.
_EXTENSIONS = {"descriptors": ".desc", "keypoints": ".kpt"}
_LENGTHS = {"descriptors": DESCRIPTOR_SIZE, "keypoints": 3}
_TIMESTAMP = "[0-9]{1,20}"  # nanoseconds have 19 digits
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
    for what in _EXTENSIONS:
        path = _file(root, what, kind, name)
        make_room(path, root)
        with writing(path, follow=False) as stream:
            stream.write(np.ascontiguousarray(getattr(features, what), _NUMBER).tobytes())


def is_complete(root: Path, kind: str, name: str) -> bool:
    """Return whether there are keypoints and descriptors of an image, and as many of one as of the other."""
    try:
        sizes = {what: _file(root, what, kind, name).stat().st_size for what in _EXTENSIONS}
    except OSError:
        return False
    keypoints, descriptors = (divmod(sizes[what], _LENGTHS[what] * _NUMBER.itemsize) for what in _EXTENSIONS)
    return keypoints == descriptors and keypoints[1] == 0


def configure(root: Path, kind: str) -> None:
    """Write what the files of this type hold, or check what is said there already.

    Raises
    ------
    FormatError
        If a file cannot be written, says something else, or is a link to one outside of the folder.
    """
    for what, title, more in (
        ("keypoints", "# name, dtype, dsize", []),
        ("descriptors", "# name, dtype, dsize, keypoints_type, metric_type", [kind, "L2"]),
    ):
        path = root / "reconstruction" / what / kind / f"{what}.txt"
        fields = ["d2net", "float32", str(_LENGTHS[what]), *more]
        _start(path, root, f"{title}\n{', '.join(fields)}")
        # The name is for people, says kapture.
        if (there := next(_rows(path), []))[1:] != fields[1:]:
            raise FormatError(f"{path} is about other features: {', '.join(there)}")


def type_of(weights: str | None) -> str:
    """Return TYPE for weights from a file of this name."""
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
        self._cameras = {row[0] for row in _rows(self._sensors)}
        self._images: set[str] = set()
        self._next = 0
        for row in _rows(self._records):
            if len(row) != 3 or not re.fullmatch(_TIMESTAMP, row[0]):
                raise FormatError(f"{self._records}: not kapture's records: {', '.join(row)}")
            self._next = max(self._next, int(row[0]) + 1)
            self._images.add(row[2])

    def __contains__(self, name: str) -> bool:
        return name in self._images

    def start(self) -> None:
        """Write both files, if they are not there yet.

        Raises
        ------
        FormatError
            If they cannot be written, or are links to files outside of the folder.
        """
        for path, title in ((self._sensors, _SENSORS), (self._records, _RECORDS)):
            _start(path, self._root, title)

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


def _file(root: Path, what: str, kind: str, name: str) -> Path:
    path = inside(root / "reconstruction" / what / kind, name)
    return path.with_name(path.name + _EXTENSIONS[what])


def _start(path: Path, root: Path, content: str) -> None:
    """Write a table that is not there yet.

    Raises
    ------
    FormatError
        If it cannot be written, or is a link to a file outside of the folder.
    """
    if leads_out(path, root):
        raise FormatError(
            f"{path}: cannot be written: a link leads out of {root}: put what it links to there"
        )
    if not path.exists():
        make_room(path)
        with writing(path, follow=False) as stream:
            stream.write(f"{FORMAT}\n{content}\n".encode())


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a table, of none if it is not there.

    Raises
    ------
    FormatError
        If it cannot be read, or does not begin with the version of kapture that it should.
    """
    try:
        text = streams.read(path).decode("utf-8") if path.exists() else FORMAT
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"{path}: cannot be read: {reason}") from None
    first, *_ = lines = text.split("\n")
    if first.strip() != FORMAT:
        raise FormatError(
            f"{path}: {FORMAT.strip('# ')!r} is expected in its first line, not {first.strip()[:80]!r}: "
            "kapture's kapture_upgrade_1_0_to_1_1 brings older folders up to date"
        )
    for line in lines:
        if line.strip() and not line.startswith("#"):
            yield [field.strip() for field in line.split(",")]


def _append(path: Path, line: str) -> None:
    try:
        with open(path, "r+b", buffering=0) as stream:
            # Others may have left out the last line's end.
            stream.seek(-1, os.SEEK_END)
            text = line if stream.read(1) == b"\n" else f"\n{line}"
            stream.write(text.encode())
    except OSError as error:
        raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from None
