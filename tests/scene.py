"""A scene in space, its views through known cameras, and what a reconstruction of it is worth: for tests.

A corner of a room, two walls and a floor, papered with images that scikit-image ships (NASA's in the public
domain, the others CC0). The renderer is plain NumPy: each pixel's ray meets three planes, and the nearest
one's texture is looked up. Nothing in here knows the network or COLMAP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from skimage import data

SIZE = 6.0
"""Length of the walls and of the floor, which reach from the corner along the axes x, y and z."""

WIDTH, HEIGHT, FOCAL = 480, 360, 480.0
"""Of every view, in pixels; the principal point is the centre."""

_SAMPLES = 2


@dataclass(frozen=True)
class View:
    """An image and the camera that took it.

    Attributes
    ----------
    image : (HEIGHT, WIDTH, 3) uint8
    centre : (3,) float64
        Where the camera stands.
    rotation : (3, 3) float64
        From the scene's axes to the camera's: x right, y down, z forwards.
    """

    image: NDArray[np.uint8]
    centre: NDArray[np.float64]
    rotation: NDArray[np.float64]

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 3) points of the scene to (N, 2) pixels, (0, 0) being the centre of the top-left one."""
        seen = (points - self.centre) @ self.rotation.T
        return FOCAL * seen[:, :2] / seen[:, 2:] + ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)


def views(seed: int, count: int = 6) -> list[View]:
    """Views of the corner from an arc around it, each camera a little off it at random."""
    rng = np.random.default_rng(seed)
    walls = _walls()
    result = []
    for k in range(count):
        angle = np.radians(45 + 9 * (k - (count - 1) / 2) + rng.uniform(-1, 1))
        height = 2.6 + 0.5 * (-1) ** k + rng.uniform(-0.2, 0.2)
        distance = 8.5 + rng.uniform(-0.3, 0.3)
        centre = np.array([distance * np.cos(angle), distance * np.sin(angle), height])
        target = np.array([1.7, 1.7, 1.7]) + rng.uniform(-0.15, 0.15, 3)
        rotation = _looking(target - centre)
        result.append(View(_render(walls, centre, rotation), centre, rotation))
    return result


def exif() -> Image.Exif:
    """Return the EXIF data that a camera of this focal length writes."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "d2np", "pinhole"
    # As if its sensor were 36 mm wide and 24 mm high: COLMAP reckons with the diagonal of such a film.
    film, img = np.hypot(36, 24), np.hypot(WIDTH, HEIGHT)
    tags[ExifTags.IFD.Exif] = {ExifTags.Base.FocalLengthIn35mmFilm: round(FOCAL * film / img)}
    return tags


def aligned(found: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points found, moved, turned and scaled to lie as near the true ones as can be.

    Umeyama, *Least-squares estimation of transformation parameters between two point patterns*, PAMI 1991.

    Parameters
    ----------
    found, truth : (N, 3) float64
    """
    from_centre, to_centre = found - found.mean(axis=0), truth - truth.mean(axis=0)
    u, stretch, vt = np.linalg.svd(to_centre.T @ from_centre)
    # A reflection is no motion: the axis that matters least is turned round.
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    scale = (stretch * signs).sum() / (from_centre**2).sum()
    return scale * from_centre @ rotation.T + truth.mean(axis=0)


def _walls() -> list[NDArray[np.float64]]:
    """A texture for the planes x = 0, y = 0 and z = 0."""
    return [
        _papered([data.astronaut(), data.coffee(), data.rocket(), data.chelsea()]),
        _papered(
            [data.chelsea()[:, ::-1], data.rocket()[::-1], data.astronaut()[::-1], data.coffee()[:, ::-1]]
        ),
        _papered(
            [data.coffee()[::-1], data.chelsea()[::-1], data.astronaut()[:, ::-1], data.rocket()[:, ::-1]]
        ),
    ]


def _papered(images: list[NDArray[np.uint8]], edge: int = 256) -> NDArray[np.float64]:
    a, b, c, d = (
        np.asarray(Image.fromarray(img).resize((edge, edge), Image.Resampling.LANCZOS), np.float64)
        for img in images
    )
    return np.block([[[a], [b]], [[c], [d]]])


def _looking(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    forwards = direction / np.linalg.norm(direction)
    right = np.cross(forwards, [0, 0, 1])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forwards, right), forwards])


def _render(
    walls: list[NDArray[np.float64]], centre: NDArray[np.float64], rotation: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """The mean of several rays for each pixel, so that fine texture does not turn to noise."""
    y, x = (np.mgrid[: HEIGHT * _SAMPLES, : WIDTH * _SAMPLES] + 0.5) / _SAMPLES
    rays = np.stack([(x - WIDTH / 2) / FOCAL, (y - HEIGHT / 2) / FOCAL, np.ones_like(x)], axis=-1) @ rotation
    nearest = np.full(x.shape, np.inf)
    img = np.zeros((*x.shape, 3))
    for axis, texture in enumerate(walls):
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -centre[axis] / rays[..., axis]
            across, up = (centre[k] + depth * rays[..., k] for k in range(3) if k != axis)
            hit = (depth > 0) & (depth < nearest) & (across >= 0) & (up >= 0) & (across < SIZE) & (up < SIZE)
        nearest[hit] = depth[hit]
        img[hit] = _sampled(texture, across[hit] / SIZE, 1 - up[hit] / SIZE)
    img = img.reshape(HEIGHT, _SAMPLES, WIDTH, _SAMPLES, 3).mean(axis=(1, 3))
    return np.clip(np.rint(img), 0, 255).astype(np.uint8)


def _sampled(
    texture: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear, at shares of the texture's width and height."""
    rows, columns = texture.shape[:2]
    x = np.clip(x * columns - 0.5, 0, columns - 1.001)
    y = np.clip(y * rows - 0.5, 0, rows - 1.001)
    left, top = x.astype(int), y.astype(int)
    right_share, lower_share = (x - left)[:, np.newaxis], (y - top)[:, np.newaxis]
    upper = texture[top, left] * (1 - right_share) + texture[top, left + 1] * right_share
    lower = texture[top + 1, left] * (1 - right_share) + texture[top + 1, left + 1] * right_share
    return upper * (1 - lower_share) + lower * lower_share
