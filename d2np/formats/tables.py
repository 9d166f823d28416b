"""The matches of two images as a table: CSV, JSON or NumPy's ``.npz``.

Each row is a match: where its keypoints lie in both images, in pixels, at which scale and with which score,
the cosine of their descriptors, and whether it agrees with the geometric model. CSV has one line of names,
then a line for each match. JSON and ``.npz`` also say what the matches were made from. All numbers are read
back as they were, bit for bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        null. ``counts``: how many ``keypoints_a``, ``keypoints_b``, ``matches`` and ``inliers``.
        ``image_size_a`` and ``image_size_b``, ``model`` and ``evidence`` as in :class:`d2np.Matches`; and
        what ``about`` has.
    ``.npz``
        An array for each column, without ``inlier`` where the matches have not been verified;
        ``image_size_a``, ``image_size_b``; ``model`` and ``log10_chance`` where there are. Nothing in it is
        pickled.

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
    columns = _columns(a, b, matches)
    with writing(path, error=Error) as stream:
        if extension == ".npz":
            arrays: dict[str, Any] = {**columns, "image_size_a": a.image_size, "image_size_b": b.image_size}
            if matches.model is not None:
                arrays["model"] = matches.model
            if matches.evidence is not None:
                arrays["log10_chance"] = matches.evidence.log10_chance
            np.savez_compressed(stream, **arrays)
        elif extension == ".csv":
            # Of a float32, this has the shortest digits that are read back as the same one.
            texts = {name: column.astype(str) for name, column in columns.items()}
            texts["inlier"] = np.full(len(matches), "")
            if matches.inliers is not None:
                texts["inlier"] = matches.inliers.astype(np.int8).astype(str)
            rows = np.stack(list(texts.values()), axis=1)
            np.savetxt(stream, rows, "%s", ",", header=",".join(texts), comments="")
        else:
            stream.write(_json(columns, a, b, matches, about or {}).encode())


def _columns(a: Features, b: Features, matches: Matches) -> dict[str, NDArray[Any]]:
    check_indices(matches, len(a), len(b))
    columns: dict[str, NDArray[Any]] = {}
    for k, (which, features) in enumerate((("a", a), ("b", b))):
        chosen = matches.indices[:, k]
        for name, values in zip(("x", "y", "scale"), features.keypoints[chosen].T, strict=True):
            columns[f"{name}_{which}"] = values
        columns[f"score_{which}"] = features.scores[chosen]
    columns["similarity"] = matches.similarities
    if matches.inliers is not None:
        columns["inlier"] = matches.inliers
    return columns


def _json(
    columns: dict[str, NDArray[Any]], a: Features, b: Features, matches: Matches, about: Mapping[str, Any]
) -> str:
    values: dict[str, list[Any]] = {
        name: [_number(value) for value in column] for name, column in columns.items() if name != "inlier"
    }
    values["inlier"] = columns["inlier"].tolist() if "inlier" in columns else [None] * len(matches)
    evidence = matches.evidence
    document = {
        **about,
        "image_size_a": a.image_size,
        "image_size_b": b.image_size,
        "counts": {
            "keypoints_a": len(a),
            "keypoints_b": len(b),
            "matches": len(matches),
            "inliers": sum(values["inlier"]) if "inlier" in columns else None,
        },
        "model": None if matches.model is None else matches.model.tolist(),
        "evidence": evidence and {**vars(evidence), "log10_chance": _number(evidence.log10_chance)},
        "matches": [],
    }
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    # A line for each match.
    lines = ",".join(f"\n    {json.dumps(row, allow_nan=False)}" for row in rows)
    return json.dumps(document, indent=2, allow_nan=False).removesuffix("]\n}") + lines + "\n  ]\n}\n"


def _number(value: Any) -> float | None:
    """Return a number as JSON has it, which knows no infinities; of a float32 the shortest digits."""
    return float(str(value)) if np.isfinite(value) else None
