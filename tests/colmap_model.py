"""A sparse model of two images, in COLMAP's text format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write(folder: Path, names: tuple[str, str], size: int, first: NDArray, second: NDArray) -> None:
    """Write a model whose points are seen in both images, of size x size pixels.

    ``first`` and ``second`` are (N, 2): x, y in pixels, where (0, 0) is the centre of the top-left pixel.
    """
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {size} {size} {size} {size / 2} {size / 2}\n")
    images = []
    for number, (name, seen) in enumerate(zip(names, (first, second), strict=True), 1):
        points = " ".join(f"{x + 0.5} {y + 0.5} {one}" for one, (x, y) in enumerate(seen, 1))
        images.append(f"{number} 1 0 0 0 0 0 0 1 {name}\n{points}\n")
    (folder / "images.txt").write_text("".join(images))
    points = [f"{one + 1} {x} {y} 1 0 0 0 0 1 {one} 2 {one}\n" for one, (x, y) in enumerate(first)]
    (folder / "points3D.txt").write_text("".join(points))


def grid(size: int, step: int) -> NDArray[np.float64]:
    """Return positions (N, 2) on a grid."""
    x, y = np.meshgrid(np.arange(0.0, size, step), np.arange(0.0, size, step))
    return np.stack([x.ravel(), y.ravel()], axis=1)
