"""All of D2-Net in plain NumPy, in one file, in the order of the paper. Read this first.

D2-Net (Dusmanu et al., CVPR 2019) is a convolutional network of which the output is used twice: each cell of
the feature map is a descriptor, each channel a detector. :class:`d2np.Net` computes the same, faster, with
little memory and with checks; its tests compare it with this file. This one needs NumPy and Pillow alone.

Maps are (rows, columns, channels), positions (row, column). All is in float32, or in float64 as the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array: TypeAlias = NDArray[Any]

EDGE_THRESHOLD = 5  # largest ratio of principal curvatures, as in SIFT and in the published code
LEAST_CURVATURE = 1e-4  # second differences below this share of the value are rounding
TIE = 1e-5  # so are differences between neighbours


def load(path: str | Path) -> dict[str, Array]:
    """Return the arrays "conv1_1/weight" to "conv4_3/bias" of an .npz or HDF5 file (by h5py), in float32."""
    if Path(path).suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].astype(np.float32) for name in file}
    import h5py

    with h5py.File(path, "r") as file:
        names = [f"{layer}/{kind}" for layer in file for kind in file[layer]]
        own = {name: file[name][()].astype(np.float32) for name in names}
        base = file.attrs.get("base")  # the file beside this one that has all other arrays
    return {**load(Path(path).with_name(f"{base.decode()}.h5")), **own} if base else own


# The image: published file extract_features.py
def read_image(path: str | Path) -> Array:
    """Return an image as (H, W, 3) uint8, red first. The EXIF orientation is ignored."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def shrink(image: Array, max_edge: int = 1600, max_sum_edges: int = 2800) -> Array:
    """Bring the longest edge down to ``max_edge`` pixels, then the sum of both to ``max_sum_edges``."""
    for measure, limit in ((max, max_edge), (sum, max_sum_edges)):
        height, width, _ = image.shape
        if measure((height, width)) > limit:
            factor = limit / measure((height, width))
            size = int(width * factor), int(height * factor)
            channels = [Image.fromarray(channel) for channel in image.transpose(2, 0, 1)]
            resized = [channel.resize(size, Image.Resampling.BILINEAR) for channel in channels]
            image = np.dstack([np.asarray(channel) for channel in resized])
    return image


def preprocess(image: Array, preprocessing: str = "caffe") -> Array:
    """Scale (H, W, 3) colours, red first, 0..255, as the network was trained: "caffe" or "torch"."""
    image = image.astype(np.result_type(image, np.float32))
    if preprocessing == "caffe":
        return image[:, :, ::-1] - np.array([103.939, 116.779, 123.68], image.dtype)
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], image.dtype)
    return (image / 255 - mean) / deviation


# The network: sections 3.1 and 4.3, published file lib/model_test.py
def convolution(x: Array, weights: Array, bias: Array, dilation: int = 1) -> Array:
    """Convolve (H, W, in) with weights (out, in, 3, 3), with zeros around: (H, W, out).

    It is the sum of nine matrix products, one for each position in the 3 x 3 window. With all pixels in one
    list, the neighbours in one direction are the same list from another place on.
    """
    height, width, channels = x.shape
    pitch = width + 2 * dilation
    pixels = np.pad(x, ((dilation, dilation + 1), (dilation, dilation), (0, 0))).reshape(-1, channels)
    result = np.tile(bias.astype(x.dtype), (height * pitch, 1))
    for i in range(3):
        for j in range(3):
            first = (i * pitch + j) * dilation
            result += pixels[first : first + len(result)] @ weights[:, :, i, j].T.astype(x.dtype)
    return result.reshape(height, pitch, -1)[:, :width]


def relu(x: Array) -> Array:
    """Return x with zeros for negative values."""
    return np.maximum(x, 0)


def max_pool(x: Array) -> Array:
    """Return the largest of each 2 x 2 cells, with stride 2; an odd last row or column is left out."""
    height, width, channels = x.shape
    return x[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))


def average_pool(x: Array) -> Array:
    """Return the mean of each 2 x 2 cells, with stride 1."""
    return (x[:-1, :-1] + x[:-1, 1:] + x[1:, :-1] + x[1:, 1:]) / 4


def feature_map(pixels: Array, arrays: Mapping[str, Array], last_relu: bool = True) -> Array:
    """Return the feature map (h, w, 512) of a preprocessed image, one cell for each 4 x 4 pixels.

    The layers are those of VGG16 up to conv4_3. As section 4.3 has it for tests, the third pooling is an
    average that skips no cell, and the convolutions behind it look at every second cell instead (dilation 2).
    """

    def layer(x: Array, name: str, dilation: int = 1) -> Array:
        return convolution(x, arrays[f"{name}/weight"], arrays[f"{name}/bias"], dilation)

    x = relu(layer(pixels, "conv1_1"))
    x = relu(layer(x, "conv1_2"))
    x = max_pool(x)
    x = relu(layer(x, "conv2_1"))
    x = relu(layer(x, "conv2_2"))
    x = max_pool(x)
    x = relu(layer(x, "conv3_1"))
    x = relu(layer(x, "conv3_2"))
    x = relu(layer(x, "conv3_3"))
    x = average_pool(x)
    x = relu(layer(x, "conv4_1", dilation=2))
    x = relu(layer(x, "conv4_2", dilation=2))
    x = layer(x, "conv4_3", dilation=2)
    return relu(x) if last_relu else x


def l2_normalize(vectors: Array) -> Array:
    """Scale (..., N) vectors to length 1: equation 1 of the paper, for each cell of a map."""
    lengths = np.sqrt((vectors**2).sum(-1, keepdims=True))
    return vectors / np.maximum(lengths, 1e-12)


# Detection: section 3.2, "hard feature detection"
def detect(cells: Array, blocked: Array) -> NDArray[np.int64]:
    """Return the peaks of a feature map as (N, 3) row, column, channel.

    A peak is the largest channel of its cell (the paper's condition on k), and a local maximum of that
    channel among the eight neighbours (its condition on i, j). As in SIFT, which section 4.3 refers to, a
    point on a ridge is none. Nor is one that is flat up to rounding, which is d2np's own condition. Cells
    where ``blocked`` (h, w) is True hold no peaks.
    """
    peaks = np.argwhere((cells == cells.max(-1, keepdims=True)) & ~blocked[:, :, np.newaxis])
    value = cells[tuple(peaks.T)]
    peaks = peaks[value + TIE * abs(value) >= _around(cells, peaks, -np.inf).max((1, 2))]
    value, _, (dii, djj, dij) = _derivatives(cells, peaks)
    curved = np.minimum(-dii, -djj) > LEAST_CURVATURE * abs(value)
    determinant, trace = dii * djj - dij * dij, dii + djj
    with np.errstate(divide="ignore", invalid="ignore"):
        not_edge = trace * trace / determinant <= (EDGE_THRESHOLD + 1) ** 2 / EDGE_THRESHOLD
    return peaks[curved & (determinant > 0) & not_edge]


def localize(cells: Array, peaks: NDArray[np.int64]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the positions (N, 2) of peaks between the cells, and which of them count.

    One step of Newton's method leads from a cell to the peak of the quadratic function through it and its
    neighbours. It counts if it is shorter than half a cell in both directions and stays within the map.
    """
    _, (di, dj), (dii, djj, dij) = _derivatives(cells, peaks)
    determinant = dii * djj - dij * dij
    step_i = -(djj / determinant * di - dij / determinant * dj)
    step_j = -(dii / determinant * dj - dij / determinant * di)
    step = np.stack([step_i, step_j], axis=1)
    positions = peaks[:, :2].astype(cells.dtype) + step
    last = np.array(cells.shape[:2]) - 1
    return positions, ((abs(step) < 0.5) & (positions >= 0) & (positions <= last)).all(1)


def _around(cells: Array, peaks: NDArray[np.int64], outside: float) -> Array:
    """Return (N, 3, 3) values around each peak, in its channel; ``outside`` stands around the map."""
    padded = np.pad(cells, ((1, 1), (1, 1), (0, 0)), constant_values=outside)
    i, j, c = peaks.T[:, :, np.newaxis, np.newaxis]
    window = np.arange(3)
    return padded[i + window[:, np.newaxis], j + window, c]


def _derivatives(cells: Array, peaks: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return the value at each peak, its first differences (2, N), and its second ones (3, N)."""
    (a, up, b), (left, value, right), (c, down, d) = _around(cells, peaks, 0).transpose(1, 2, 0)
    first = 0.5 * (down - up), 0.5 * (right - left)
    second = up - 2 * value + down, left - 2 * value + right, 0.25 * (a - b - c + d)
    return value, np.stack(first), np.stack(second)


def strength(cells: Array) -> Array:
    """Return the largest element of each normalised cell: d2np's other detector ranks cells by it."""
    return l2_normalize(cells).max(-1)


# Description: sections 3.1 and 4.3
def sample(cells: Array, positions: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the map (N, C) at positions between its cells, and which of them lie within the map.

    It is interpolated bilinearly, and 0 outside. L2-normalised, this is the descriptor.
    """
    last = np.array(cells.shape[:2]) - 1
    valid = np.all((positions >= 0) & (positions <= last), axis=1)
    rows, columns = np.where(valid, positions.T, 0).astype(cells.dtype)
    top, bottom, down = _neighbours(rows, cells.shape[0])
    left, right, across = _neighbours(columns, cells.shape[1])
    down, across = down[:, np.newaxis], across[:, np.newaxis]
    upper = (1 - across) * cells[top, left] + across * cells[top, right]
    lower = (1 - across) * cells[bottom, left] + across * cells[bottom, right]
    return ((1 - down) * upper + down * lower) * valid[:, np.newaxis], valid


def _neighbours(positions: Array, size: int) -> tuple[Array, Array, Array]:
    """Return the cells before and behind each position, and its distance from the one before."""
    low = positions.astype(np.int64)
    return low, np.minimum(low + 1, size - 1), positions - low.astype(positions.dtype)


# Several scales: section 3.2, "multiscale detection", published file lib/pyramid.py
def resize(x: Array, height: int, width: int) -> Array:
    """Resize (H, W, C) bilinearly, corner cells on corner cells: (height, width, C)."""
    top, bottom, down = _neighbours(np.linspace(0, len(x) - 1, height, dtype=x.dtype), len(x))
    left, right, across = _neighbours(np.linspace(0, x.shape[1] - 1, width, dtype=x.dtype), x.shape[1])
    across, down = across[:, np.newaxis], down[:, np.newaxis, np.newaxis]
    x = (1 - across) * x[:, left] + across * x[:, right]
    return (1 - down) * x[top] + down * x[bottom]


def resize_nearest(flags: Array, height: int, width: int) -> Array:
    """Resize (H, W) by copying cells, which are picked as PyTorch does, truncated in float32."""

    def pick(source: int, target: int) -> Array:
        step = np.float32(source) / np.float32(target)
        return np.minimum((np.arange(target, dtype=np.float32) * step).astype(np.int64), source - 1)

    return flags[np.ix_(pick(flags.shape[0], height), pick(flags.shape[1], width))]


def extract(
    image: Array,
    arrays: Mapping[str, Array],
    scales: Sequence[float] = (1.0,),
    preprocessing: str = "caffe",
    last_relu: bool = True,
    **limits: int,
) -> tuple[Array, Array, Array]:
    """Return the keypoints (N, 3) of an (H, W, 3) image, their scores (N,) and descriptors (N, 512).

    Keypoints are x, y in pixels of ``image`` and 1 / s at scale s; ``limits`` are those of :func:`shrink`.
    Each map is added to that of the next finer scale, where cells that held a peak are blocked.
    """
    pixels = preprocess(shrink(image, **limits), preprocessing)
    seen = np.array(pixels.shape[:2])
    coarser, blocked = None, np.zeros((1, 1), np.bool_)
    keypoints, scores, descriptors = [], [], []
    for number, scale in enumerate(sorted(scales), 1):
        height, width = (seen * scale).astype(int)
        cells = feature_map(resize(pixels, height, width), arrays, last_relu)
        if coarser is not None:
            cells += resize(coarser, *cells.shape[:2])
        blocked = resize_nearest(blocked, *cells.shape[:2])
        peaks = detect(cells, blocked)
        blocked[tuple(peaks.T[:2])] = True
        positions, counts = localize(cells, peaks)
        positions, peaks = positions[counts], peaks[counts]
        coarser = cells if len(peaks) else None
        # Two poolings by 2 put cell 0 at pixel 1.5.
        y, x = ((4 * positions + 1.5) * (seen / (height, width)) * (image.shape[:2] / seen)).T
        keypoints.append(np.stack([x, y, np.full(len(x), 1 / scale)], axis=1).astype(cells.dtype))
        scores.append(cells[tuple(peaks.T)] / number)
        descriptors.append(l2_normalize(sample(cells, positions)[0]))
    return np.concatenate(keypoints), np.concatenate(scores), np.concatenate(descriptors)


# Matching: section 5.1
def two_best(products: Array) -> tuple[Array, NDArray[np.int64], Array]:
    """Return the largest product of each row, its column (the first of equals), and the second largest."""
    index = products.argmax(1)
    others = products.copy()
    others[np.arange(len(index)), index] = -np.inf
    return products.max(1), index, others.max(1)


def match(a: Array, b: Array, *, mutual: bool = True, ratio: float | None = None) -> tuple[Array, Array]:
    """Return pairs (M, 2) of nearest neighbours in two images' descriptors, and their cosines (M,).

    ``mutual`` pairs are each other's nearest neighbours. ``ratio`` limits the nearest one's distance over
    that of the second one (Lowe's test), in both directions if pairs are mutual.
    """

    def passes(best: Array, second: Array) -> Array:
        # The squared distance of unit vectors is 2 - 2 cos; rounding may push the cosine past 1.
        near, far = np.maximum(2 - 2 * best, 0), np.maximum(2 - 2 * second, 0)
        return near <= ratio**2 * far if ratio is not None else near >= 0

    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64), np.empty(0, a.dtype)
    (best, partner, second), (back_best, back, back_second) = two_best(a @ b.T), two_best(b @ a.T)
    here = np.arange(len(a))
    keep = passes(best, second)
    if mutual:
        keep &= (back[partner] == here) & passes(back_best, back_second)[partner]
    return np.stack([here, partner], axis=1)[keep], best[keep]
