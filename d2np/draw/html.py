"""Pages to look at keypoints and matches in: one file that a browser shows without a network.

A page is put together from a template, a style and scripts in ``pages/``. The images are inside as data
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
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import count
from ..features import Features, Matches
from .canvas import LOWEST, colour_map, ranks
from .heat import COLOURS, checked_map, levels
from .overlays import open_for, open_pair

# Colours on a page are one of this many, so that lines of one colour are drawn in one stroke.
_SHADES = 48
# Larger images are embedded with this longest edge; a heat map is smooth, and needs fewer pixels.
_MAX_EDGE, _HEAT_EDGE = 1600, 800
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
    data = {
        "a": _points(features_a, matches.indices[order, 0]),
        "b": _points(features_b, matches.indices[order, 1]),
        "similarities": _rounded(similarities, 4),
        "colourRange": _rounded(np.percentile(similarities, [5, 100]), 4) if len(similarities) else [0, 1],
        "inliers": None if mask is None else mask[order].astype(int).tolist(),
    }
    return _page(
        "match",
        list(zip(names, opened, both, strict=True)),
        data,
        title=f"{names[0]} and {names[1]}: matches",
        caption=caption,
        caption_hidden="" if caption else "hidden",
        kinds_hidden="" if mask is not None else "hidden",
    )


def keypoint_page(
    image: Any,
    features: Features,
    strength: ArrayLike | None = None,
    *,
    heat: bool = False,
    network_size: tuple[int, int] | None = None,
    name: str = "The image",
) -> str:
    """Return a page with an image and its keypoints, to point at, filter and step through.

    The image is embedded with a longest edge of at most 1600 px.

    Parameters
    ----------
    image : path, PIL.Image.Image or array
        The image that the features were extracted from.
    features : Features
    strength : (h, w) float, optional
        The map, as :meth:`d2np.Net.strength` returns it: the page can then show it over the image.
    heat : bool
        Show the strength map from the beginning.
    network_size : (int, int), optional
        (width, height) of the image that the network saw, as for :func:`d2np.draw.heatmap`.
    name : str
        What the image is called on the page.

    Returns
    -------
    str
        HTML, to be written as UTF-8.

    Raises
    ------
    FormatError
        If the features or the map belong to an image of another size, or are not finite.
    ImageError
        If the image cannot be read.
    """
    opened = open_for(image, features, which="features")
    order = np.argsort(-features.scores, kind="stable")
    shades = ranks(features.scores[order]) * (_SHADES - 1)
    data = {
        "points": _points(features, order),
        # Scores of trained weights are far below 1: digits count, not decimals.
        "scores": [float(f"{score:.5g}") for score in features.scores[order]],
        "shades": np.rint(shades).astype(int).tolist(),
        "heat": None if strength is None else _heat_url(strength, features.image_size, network_size),
        "heatColours": _hexadecimal(colour_map(COLOURS, np.linspace(0.0, 1.0, 9))),
    }
    return _page(
        "keypoints",
        [(name, opened, features)],
        data,
        title=f"{name}: keypoints",
        heat_hidden="" if strength is not None else "hidden",
        heat_checked="checked" if heat and strength is not None else "",
    )


def _points(features: Features, chosen: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return positions in pixels of the image as given, and scales."""
    x, y, scale = features.keypoints[chosen].T
    return {"x": _rounded(x, 2), "y": _rounded(y, 2), "scale": _rounded(scale, 3)}


def _rounded(values: NDArray[np.floating], decimals: int) -> list[float]:
    # In float64, or the digits beyond float32's precision would be written out.
    rounded: list[float] = np.round(values.astype(np.float64), decimals).tolist()
    return rounded


def _hexadecimal(colours: NDArray[np.uint8]) -> list[str]:
    return ["#" + bytes(colour).hex() for colour in colours]


def _image_url(image: Image.Image) -> str:
    image.thumbnail((_MAX_EDGE, _MAX_EDGE), Image.Resampling.LANCZOS, reducing_gap=None)
    # Drawings are sharp and small as PNG, photographs are small as JPEG only.
    if image.getcolors(256) is not None:
        return _url(image, "PNG", optimize=True)
    return _url(image, "JPEG", quality=_JPEG_QUALITY, optimize=True, progressive=True)


def _heat_url(strength: ArrayLike, size: tuple[int, int], network_size: tuple[int, int] | None) -> str:
    """Return the map's colours, the stronger the less transparent, in the image's shape."""
    level = levels(*checked_map(strength, size, network_size), size)
    image = Image.fromarray(np.rint(level * 255).astype(np.uint8))
    image.thumbnail((_HEAT_EDGE, _HEAT_EDGE))
    image = image.convert("P")
    steps = np.linspace(0.0, 1.0, 256)
    image.putpalette(colour_map(COLOURS, steps).tobytes())
    opacity = np.rint(255 * (0.25 + 0.5 * steps)).astype(np.uint8)
    return _url(image, "PNG", optimize=True, transparency=opacity.tobytes())


def _url(image: Image.Image, format: str, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _page(
    which: str, shown: list[tuple[str, Image.Image, Features]], data: dict[str, Any], **texts: str
) -> str:
    """Return a template with everything in it; names and ``texts`` may hold anything."""
    data["colours"] = _hexadecimal(colour_map("viridis", np.linspace(0.0, 1.0, _SHADES), LOWEST))
    data["sizes"] = []
    for letter, (name, image, features) in zip("ab", shown, strict=False):
        width, height = features.image_size
        data["sizes"].append({"width": width, "height": height})
        texts[f"name_{letter}"] = name
        texts[f"about_{letter}"] = f"{width} × {height} px, {count(len(features), 'keypoint')}"
        texts[f"image_{letter}"] = _image_url(image)
    style = _file("page.css")
    script = _file("common.js") + _file(f"{which}.js")
    return Template(_file(f"{which}.html")).substitute(
        {key: _escaped(text) for key, text in texts.items()},
        policy=(
            "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
        ),
        style=style,
        script=script,
        data=_json(data),
    )


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
