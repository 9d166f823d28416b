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
import os
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import OptionError, count
from ..features import Features, Matches, checked
from ..images.remote import RemoteFile
from ..options import whole_number
from .colours import colour_map, ranks
from .heat import checked_map, extent_of, levels
from .overlays import open_for, open_pair

# Colours on a page are one of this many, so that lines of one colour are drawn in one stroke.
_SHADES = 48
# Where in the colour map the least similar match and the lowest score lie, as in the drawings.
_LOWEST = 0.3
# The heat map is smooth: more pixels than this along its longest edge would show nothing more.
_HEAT_EDGE = 800
_HEAT_COLOURS = "inferno"
_JPEG_QUALITY = 88


def match_page(
    image_a: Any,
    image_b: Any,
    features_a: Features,
    features_b: Features,
    matches: Matches,
    *,
    inliers: ArrayLike | None = None,
    names: tuple[str, str] | None = None,
    max_edge: int = 1600,
    orient: bool = False,
    caption: str = "",
) -> str:
    """Return a page with both images and a line for each match, to point at, filter and step through.

    Parameters
    ----------
    image_a, image_b : path, PIL.Image.Image or array
        The images that the features were extracted from.
    features_a, features_b : Features
    matches : Matches
    inliers : (M,) bool, optional
        Which matches agree with a geometric model; the others are drawn faint and dashed, and both kinds can
        be switched off. Default: ``matches.inliers`` where there is such a mask.
    names : (str, str), optional
        What the images are called on the page. Default: the names of their files.
    max_edge : int
        Larger images are embedded with this longest edge, in pixels.
    orient : bool
        Turn the images as their EXIF data says; as it was chosen at extraction.
    caption : str
        A sentence below the names, such as what the check against a geometric model says.

    Returns
    -------
    str
        HTML, to be written as UTF-8.

    Raises
    ------
    FormatError
        If the features belong to images of other sizes, if a match names a keypoint that does not exist,
        if ``inliers`` does not fit the matches, or if numbers are not finite.
    ImageError
        If an image cannot be read.
    OptionError
        If ``max_edge`` is no positive number, or there are not two names.
    """
    names = _names(image_a, image_b) if names is None else names
    if isinstance(names, str) or len(names) != 2:
        raise OptionError(f"names must be two, one for each image; got {names!r}")
    both = features_a, features_b
    pixels = open_pair((image_a, image_b), both, matches, orient=orient)
    mask = matches.inliers if inliers is None else checked("inliers", inliers, np.bool_, (len(matches),))

    # The most similar first: the page steps through them in this order, and draws them in the opposite one.
    order = np.argsort(-matches.similarities, kind="stable")
    similarities = matches.similarities[order]
    data = {
        "a": _points(features_a, matches.indices[order, 0]),
        "b": _points(features_b, matches.indices[order, 1]),
        "similarities": _rounded(similarities, 4),
        "colourRange": _rounded(np.percentile(similarities, [5, 100]), 4) if len(similarities) else [0, 1],
        "inliers": None if mask is None else mask[order].astype(int).tolist(),
    }
    return _page(
        "match",
        list(zip(names, pixels, both, strict=True)),
        max_edge,
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
    name: str | None = None,
    max_edge: int = 1600,
    orient: bool = False,
) -> str:
    """Return a page with an image and its keypoints, to point at, filter and step through.

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
    name : str, optional
        What the image is called on the page. Default: the name of its file.
    max_edge : int
        A larger image is embedded with this longest edge, in pixels.
    orient : bool
        Turn the image as its EXIF data says; as it was chosen at extraction.

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
    OptionError
        If ``max_edge`` is no positive number.
    """
    pixels = open_for(image, features, orient=orient, which="features")
    name = _name(image, "The image") if name is None else name
    order = np.argsort(-features.scores, kind="stable")
    shades = ranks(features.scores[order]) * (_SHADES - 1)
    data = {
        "points": _points(features, order),
        # Scores of trained weights are far below 1: digits count, not decimals.
        "scores": [float(f"{score:.5g}") for score in features.scores[order]],
        "shades": np.rint(shades).astype(int).tolist(),
        "heat": None if strength is None else _heat_url(strength, features.image_size, network_size),
        "heatColours": _hexadecimal(colour_map(_HEAT_COLOURS, np.linspace(0.0, 1.0, 9))),
    }
    return _page(
        "keypoints",
        [(name, pixels, features)],
        max_edge,
        data,
        title=f"{name}: keypoints",
        heat_hidden="" if strength is not None else "hidden",
        heat_checked="checked" if heat and strength is not None else "",
    )


def _names(image_a: Any, image_b: Any) -> tuple[str, str]:
    a, b = _name(image_a, "A"), _name(image_b, "B")
    # Often only the folders differ, as in left/1.jpg and right/1.jpg.
    return (a, b) if a != b else (_name(image_a, "A", 2), _name(image_b, "B", 2))


def _name(image: Any, otherwise: str, parts: int = 1) -> str:
    """Return what an image is called: the last parts of its path, where it has one."""
    if isinstance(image, RemoteFile):
        return image.name
    return "/".join(Path(image).parts[-parts:]) if isinstance(image, (str, os.PathLike)) else otherwise


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


def _image_url(pixels: NDArray[np.uint8], max_edge: int) -> str:
    shown = Image.fromarray(pixels)
    shown.thumbnail((max_edge, max_edge), Image.Resampling.LANCZOS, reducing_gap=None)
    # Drawings and small images are sharp and small as PNG, photographs are small as JPEG only.
    if shown.width * shown.height <= 128 * 128 or shown.getcolors(256) is not None:
        return _url(shown, "PNG", optimize=True)
    return _url(shown, "JPEG", quality=_JPEG_QUALITY, optimize=True, progressive=True)


def _heat_url(strength: ArrayLike, size: tuple[int, int], network_size: tuple[int, int] | None) -> str:
    """Return the map's colours, the stronger the less transparent, in the image's shape."""
    cells = checked_map(strength)
    level = levels(cells, extent_of(cells, size, network_size), size)
    image = Image.fromarray(np.rint(level * 255).astype(np.uint8))
    image.thumbnail((_HEAT_EDGE, _HEAT_EDGE))
    image = image.convert("P")
    steps = np.linspace(0.0, 1.0, 256)
    image.putpalette(colour_map(_HEAT_COLOURS, steps).tobytes())
    opacity = np.rint(255 * (0.25 + 0.5 * steps)).astype(np.uint8)
    return _url(image, "PNG", optimize=True, transparency=opacity.tobytes())


def _url(image: Image.Image, format: str, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _page(
    which: str,
    shown: list[tuple[str, NDArray[np.uint8], Features]],
    max_edge: int,
    data: dict[str, Any],
    **texts: str,
) -> str:
    """Return a template with everything in it; names and ``texts`` may hold anything."""
    whole_number("max_edge", max_edge)
    data["colours"] = _hexadecimal(colour_map("viridis", np.linspace(0.0, 1.0, _SHADES), _LOWEST))
    data["sizes"] = []
    for letter, (name, pixels, features) in zip("ab", shown, strict=False):
        width, height = features.image_size
        data["sizes"].append({"width": width, "height": height})
        texts[f"name_{letter}"] = name
        texts[f"about_{letter}"] = f"{width} × {height} px, {count(len(features), 'keypoint')}"
        texts[f"image_{letter}"] = _image_url(pixels, max_edge)
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
