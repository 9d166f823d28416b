"""Pairs of views of a photograph through known homographies, lit and blurred differently."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

ROTATION, SCALE, TILT, SHIFT = 30.0, 1.6, 0.12, 0.15
"""Limits of the second view: degrees, factor, shares of the view by which corners and centre move."""

# Pillow's coordinates begin at the top-left pixel's corner, positions at its centre.
_HALF = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])


class Views(NamedTuple):
    """Two views and where the first one's cells lie in the second.

    Attributes
    ----------
    first, second : (size, size, 3) uint8
    truth : (3, 3) float64
        The homography from pixels of the first to pixels of the second.
    """

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    truth: NDArray[np.float64]


def views(photo: Image.Image, size: int, rng: np.random.Generator) -> Views:
    """Draw two views of a photograph.

    Parameters
    ----------
    photo : PIL.Image.Image
        RGB, at least as large as a view.
    size : int
        Edge of a view in pixels.
    rng : numpy.random.Generator
    """
    square = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float64)
    strength = 1.0
    while True:
        edge = min(min(photo.size), size * np.exp(rng.uniform(-1, 1) * np.log(1.4)))
        corner = rng.uniform(0, np.array(photo.size) - edge)
        first = square / size * edge + corner
        turn = np.deg2rad(rng.uniform(-ROTATION, ROTATION)) * strength
        factor = np.exp(rng.uniform(-1, 1) * np.log(SCALE)) ** strength
        matrix = factor * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        centre = first.mean(axis=0)
        moved = centre + rng.uniform(-SHIFT, SHIFT, 2) * edge * strength
        second = (first - centre) @ matrix.T + moved + rng.uniform(-TILT, TILT, (4, 2)) * edge * strength
        if (second >= 0).all() and (second <= photo.size).all():
            break
        strength *= 0.97  # in a small photograph only views that are nearly the same fit
    to_first, to_second = _homography(square, first), _homography(square, second)
    truth = np.linalg.inv(_HALF) @ np.linalg.inv(to_second) @ to_first @ _HALF
    images = [_through(photo, matrix, size) for matrix in (to_first, to_second)]
    return Views(_relit(images[0], rng, 0.5), _relit(images[1], rng, 1.0), truth / truth[2, 2])


def _homography(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the homography that takes four points to four others: eight equations for eight numbers."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(np.array(rows), target.ravel()), 1).reshape(3, 3)


def _through(photo: Image.Image, matrix: NDArray[np.float64], size: int) -> Image.Image:
    values = [float(value) for value in matrix.ravel()[:8]]
    return photo.transform((size, size), Image.Transform.PERSPECTIVE, values, Image.Resampling.BICUBIC)


def _relit(image: Image.Image, rng: np.random.Generator, strength: float) -> NDArray[np.uint8]:
    """Change brightness, contrast, gamma and colour; blur, and add noise or JPEG's artefacts now and then."""

    def within(factor: float) -> float:
        return float(np.exp(rng.uniform(-1, 1) * np.log(factor) * strength))

    image = ImageEnhance.Color(image).enhance(within(1.6))
    image = ImageEnhance.Contrast(image).enhance(within(1.6))
    gamma, tint = within(1.6), np.array([within(1.15) for _ in range(3)])
    values = (np.asarray(image, np.float32) / 255) ** np.float32(gamma) * np.float32(255 * within(1.4)) * tint
    if rng.random() < 0.3 * strength:
        values += rng.normal(0, rng.uniform(2, 12), values.shape)
    image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if rng.random() < 0.3 * strength:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.15 * strength:
        image = image.filter(_motion(rng))
    if rng.random() < 0.3 * strength:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(25, 85)))
        image = Image.open(stream)
    return np.asarray(image.convert("RGB"))


def _motion(rng: np.random.Generator) -> ImageFilter.Kernel:
    """Return a blur along a line through five pixels in one of four directions."""
    line = np.zeros((5, 5))
    line[2] = 1
    line = (line, line.T, np.eye(5), np.eye(5)[::-1])[rng.integers(4)]
    return ImageFilter.Kernel((5, 5), line.ravel().tolist())
