"""Pages to look at matches in: one file that a browser shows without a network.

A page is put together from a template, a style and a script in ``pages/``. The images are inside as data
URLs and the numbers as JSON. A Content-Security-Policy lets the page run and show nothing else than what is
in it, whatever the names of the images may be.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import count
from ..features import Features, Matches
from .canvas import LOWEST, colour_map
from .overlays import open_pair

# Colours on a page are one of this many, so that lines of one colour are drawn in one stroke.
_SHADES = 48
# Larger images are embedded with this longest edge.
_MAX_EDGE = 1600
_JPEG_QUALITY = 88


def match_page(
    image_a: Any,
    image_b: Any,
    features_a: Features,
    features_b: Features,
    matches: Matches,
    *,
    names: tuple[str, str] = ("A", "B"),
    caption: str = "",
) -> str:
    """Return a page with both images and a line for each match, to point at, filter and step through.

    Matches that do not agree with a geometric model, where ``matches.inliers`` tells, are drawn faint and
    dashed, and both kinds can be switched off. Images are embedded with a longest edge of at most 1600 px.

    Parameters
    ----------
    image_a, image_b : path, PIL.Image.Image or array
        The images that the features were extracted from.
    features_a, features_b : Features
    matches : Matches
    names : (str, str)
        What the images are called on the page.
    caption : str
        A sentence below the names, such as what the check against a geometric model says.

    Returns
    -------
    str
        HTML, to be written as UTF-8.

    Raises
    ------
    FormatError
        If the features belong to images of other sizes, if a match names a keypoint that does not exist, or
        if numbers are not finite.
    ImageError
        If an image cannot be read.
    """
    both = features_a, features_b
    opened = open_pair((image_a, image_b), both, matches)
    # The most similar first: the page steps through them in this order, and draws them in the opposite one.
    order = np.argsort(-matches.similarities, kind="stable")
    similarities = matches.similarities[order]
    mask = matches.inliers
    colours = colour_map("viridis", np.linspace(0.0, 1.0, _SHADES), LOWEST)
    data = {
        "a": _points(features_a, matches.indices[order, 0]),
        "b": _points(features_b, matches.indices[order, 1]),
        "sizes": [dict(zip(("width", "height"), each.image_size, strict=True)) for each in both],
        "similarities": _rounded(similarities, 4),
        "colourRange": _rounded(np.percentile(similarities, [5, 100]), 4) if len(similarities) else [0, 1],
        "colours": ["#" + bytes(colour).hex() for colour in colours],
        "inliers": None if mask is None else mask[order].astype(int).tolist(),
    }
    texts = {
        "title": f"{names[0]} and {names[1]}: matches",
        "caption": caption,
        "caption_hidden": "" if caption else "hidden",
        "kinds_hidden": "" if mask is not None else "hidden",
    }
    for letter, name, image, features in zip("ab", names, opened, both, strict=True):
        texts[f"name_{letter}"] = name
        texts[f"about_{letter}"] = f"{image.width} × {image.height} px, {count(len(features), 'keypoint')}"
        texts[f"image_{letter}"] = _image_url(image)
    style, script = _file("match.css"), _file("match.js")
    return Template(_file("match.html")).substitute(
        {key: _escaped(text) for key, text in texts.items()},
        policy=(
            "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
        ),
        style=style,
        script=script,
        data=_json(data),
    )


def _points(features: Features, chosen: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return positions in pixels of the image as given, and scales."""
    x, y, scale = features.keypoints[chosen].T
    return {"x": _rounded(x, 2), "y": _rounded(y, 2), "scale": _rounded(scale, 3)}


def _rounded(values: NDArray[np.floating], decimals: int) -> list[float]:
    # In float64, or the digits beyond float32's precision would be written out.
    rounded: list[float] = np.round(values.astype(np.float64), decimals).tolist()
    return rounded


def _image_url(image: Image.Image) -> str:
    shown = image.copy()
    shown.thumbnail((_MAX_EDGE, _MAX_EDGE), Image.Resampling.LANCZOS, reducing_gap=None)
    stream = io.BytesIO()
    # Drawings are sharp and small as PNG, photographs are small as JPEG only.
    format = "JPEG" if shown.getcolors(256) is None else "PNG"
    shown.save(stream, format, quality=_JPEG_QUALITY, optimize=True, progressive=True)
    return f"data:image/{format.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _file(name: str) -> str:
    return (resources.files(__package__) / "pages" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _escaped(text: str) -> str:
    # A file's name may hold bytes that are no letters; as text they are lone surrogates, which no UTF-8 has.
    return html.escape(str(text).encode("utf-8", "replace").decode())


def _json(data: dict[str, Any]) -> str:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # Nothing in it can end the element that it stands in.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
