"""The matches of two images as a table: CSV, JSON or NumPy's ``.npz``.

Each row is a match: where its keypoints lie in both images, in pixels, at which scale and with which score,
the cosine of their descriptors, and whether it agrees with the geometric model. CSV has one line of names,
then a line for each match. JSON and ``.npz`` also say what the matches were made from. All numbers are read
back as they were, bit for bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import writing
from ..errors import Error, OptionError
from ..features import Features, Matches, check_indices

EXTENSIONS = (".csv", ".json", ".npz")


def write(
    path: str | os.PathLike[str],
    a: Features,
    b: Features,
    matches: Matches,
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write matches as a table, all of it or nothing; the extension tells the format.

    ``.csv``
        The columns ``x_a``, ``y_a``, ``scale_a``, ``score_a``, ``x_b``, ``y_b``, ``scale_b``, ``score_b``,
        ``similarity`` and ``inlier`` (1 or 0, empty where the matches have not been verified).
    ``.json``
        ``matches``: a list with an object of these columns for each match, ``inlier`` being true, false or
        null. ``image_size_a`` and ``image_size_b``, ``model``, ``evidence`` and ``rotation`` as in
        :class:`d2np.Matches`; and what ``about`` has.
    ``.npz``
        An array for each column, without ``inlier`` where the matches have not been verified;
        ``image_size_a``, ``image_size_b``; ``model``, ``log10_chance`` and ``rotation`` where there are.
        Nothing in it is pickled.

    Parameters
    ----------
    path : str or path
    a, b : Features
    matches : Matches
        Between them.
    about : mapping, optional
        Further entries of a JSON file, such as what the images are called.

    Raises
    ------
    OptionError
        If the extension is another one.
    FormatError
        If a match names a keypoint that does not exist.
    Error
        If it cannot be written.
    """
    extension = Path(path).suffix.lower()
    if extension not in EXTENSIONS:
        raise OptionError(f"{path}: matches are written as one of {', '.join(EXTENSIONS)}")
    check_indices(matches, len(a), len(b))
    columns = {
        f"{name}_{which}": values
        for which, features, chosen in zip("ab", (a, b), matches.indices.T, strict=True)
        for name, values in (
            *zip(("x", "y", "scale"), features.keypoints[chosen].T, strict=True),
            ("score", features.scores[chosen]),
        )
    }
    columns["similarity"] = matches.similarities
    inliers, evidence = matches.inliers, matches.evidence
    sizes: dict[str, Any] = {"image_size_a": a.image_size, "image_size_b": b.image_size}
    with writing(path, error=Error) as stream:
        if extension == ".npz":
            chance = evidence and evidence.log10_chance
            one = {"model": matches.model, "log10_chance": chance, "rotation": matches.rotation}
            arrays = {"inlier": inliers, **one, **columns, **sizes}
            np.savez_compressed(
                stream, **{name: array for name, array in arrays.items() if array is not None}
            )
        elif extension == ".csv":
            # Of a float32, this has the shortest digits that are read back as the same one.
            texts = [column.astype(str) for column in columns.values()]
            marks = np.full(len(matches), "") if inliers is None else inliers.astype(np.int8).astype(str)
            header = ",".join([*columns, "inlier"])
            np.savetxt(stream, np.column_stack([*texts, marks]), "%s", ",", header=header, comments="")
        else:
            values: dict[str, list[Any]] = {name: _numbers(column) for name, column in columns.items()}
            values["inlier"] = [None] * len(matches) if inliers is None else inliers.tolist()
            rows = zip(*values.values(), strict=True)
            document = {
                **(about or {}),
                **sizes,
                "model": None if matches.model is None else matches.model.tolist(),
                "rotation": matches.rotation,
                "evidence": evidence
                and {**vars(evidence), "log10_chance": _numbers([evidence.log10_chance])[0]},
                "matches": [dict(zip(values, row, strict=True)) for row in rows],
            }
            stream.write(json.dumps(document, allow_nan=False).encode())


def _numbers(values: Iterable[Any]) -> list[float | None]:
    """Return numbers as JSON has them, which knows no infinities; of each float32 the shortest digits."""
    return [float(str(value)) if np.isfinite(value) else None for value in values]
