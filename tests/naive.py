"""Plain NumPy twins of the kernels and of the whole network, written for clarity alone.

Maps are (rows, columns, channels). Where the order of rounding decides (detection, nearest neighbours),
a twin works in the type it is given; elsewhere give it float64 to have the true figure.
"""

from __future__ import annotations

import numpy as np


def relu(x):
    return np.where(x > 0, x, 0).astype(x.dtype)


def convolution(x, weights, bias, dilation=1):
    """3 x 3 with zeros around: (H, W, in) and weights (out, in, 3, 3) to (H, W, out)."""
    height, width, _ = x.shape
    d = dilation
    padded = np.pad(x, ((d, d), (d, d), (0, 0)))
    result = np.zeros((height, width, len(weights)), x.dtype) + bias
    for i in range(3):
        for j in range(3):
            tap = np.ascontiguousarray(weights[:, :, i, j].T)
            result += padded[i * d : i * d + height, j * d : j * d + width] @ tap
    return result


def max_pool(x):
    """2 x 2 with stride 2; an odd last row or column is left out."""
    height, width, channels = x.shape
    return x[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))


def average_pool(x):
    """2 x 2 with stride 1."""
    return (x[:-1, :-1] + x[:-1, 1:] + x[1:, :-1] + x[1:, 1:]) / 4


def l2_normalize(vectors):
    lengths = np.sqrt((vectors**2).sum(-1, keepdims=True))
    return vectors / np.maximum(lengths, 1e-12)


def strength(cells):
    return l2_normalize(cells).max(-1)


def resize(x, height, width):
    """Bilinear, corner pixels on corner pixels: (H, W, C) to (height, width, C)."""

    def positions(source, target):
        return np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)

    rows, columns = positions(x.shape[0], height), positions(x.shape[1], width)
    result = np.empty((height, width, x.shape[2]))
    for i, y in enumerate(rows):
        for j, z in enumerate(columns):
            result[i, j] = _bilinear(x, y, z)
    return result


def sample(cells, positions):
    """Values at (row, column) positions, and whether all four cells around each exist."""
    height, width, channels = cells.shape
    values, valid = np.zeros((len(positions), channels)), np.zeros(len(positions), bool)
    for n, (i, j) in enumerate(positions):
        valid[n] = 0 <= i <= height - 1 and 0 <= j <= width - 1
        if valid[n]:
            values[n] = _bilinear(cells, float(i), float(j))
    return values, valid


def _bilinear(x, i, j):
    top, left = int(np.floor(i)), int(np.floor(j))
    bottom, right = min(top + 1, x.shape[0] - 1), min(left + 1, x.shape[1] - 1)
    down, across = i - top, j - left
    upper = (1 - across) * x[top, left] + across * x[top, right]
    lower = (1 - across) * x[bottom, left] + across * x[bottom, right]
    return (1 - down) * upper + down * lower


def nearest_resize(flags, height, width):
    """Nearest neighbour as the published code's framework picks it: truncated, in float32."""

    def pick(index, source, target):
        return min(int(np.float32(index) * (np.float32(source) / np.float32(target))), source - 1)

    result = np.empty((height, width), flags.dtype)
    for i in range(height):
        for j in range(width):
            result[i, j] = flags[pick(i, flags.shape[0], height), pick(j, flags.shape[1], width)]
    return result


def detect(cells, banned, edge_threshold=5, least_curvature=1e-4, tie=1e-5):
    """The published hard detection and localisation, one condition after another, on the whole map.

    What differs by rounding only counts as equal: cells that are flat hold no keypoint, and neighbours are
    tied.

    Returns keypoints as (row, column, channel) with their positions and scores, and where a detection
    stands.
    """
    height, width, _ = cells.shape
    number = cells.dtype.type

    def shifted(di, dj, outside):
        padded = np.pad(cells, ((1, 1), (1, 1), (0, 0)), constant_values=outside)
        return padded[1 + di : 1 + di + height, 1 + dj : 1 + dj + width]

    around = [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
    is_channel_maximum = cells == cells.max(-1, keepdims=True)
    tied = cells + number(tie) * abs(cells)
    is_local_maximum = tied >= np.max([shifted(di, dj, -np.inf) for di, dj in around], axis=0)

    value = {(di, dj): shifted(di, dj, 0) for di, dj in around}
    dii = value[-1, 0] - 2 * value[0, 0] + value[1, 0]
    djj = value[0, -1] - 2 * value[0, 0] + value[0, 1]
    dij = number(0.25) * (value[-1, -1] - value[-1, 1] - value[1, -1] + value[1, 1])
    di = number(0.5) * (value[1, 0] - value[-1, 0])
    dj = number(0.5) * (value[0, 1] - value[0, -1])
    determinant, trace = dii * djj - dij * dij, dii + djj
    is_curved = np.minimum(-dii, -djj) > number(least_curvature) * abs(cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = (number(edge_threshold) + 1) ** 2 / number(edge_threshold)
        is_not_edge = (determinant > 0) & (trace * trace / determinant <= limit)
        step_i = -(djj / determinant * di - dij / determinant * dj)
        step_j = -(dii / determinant * dj - dij / determinant * di)

    detected = is_channel_maximum & is_local_maximum & is_curved & is_not_edge & ~banned[:, :, np.newaxis]
    places, positions, scores = [], [], []
    for i, j, c in np.argwhere(detected):
        y, x = number(i) + step_i[i, j, c], number(j) + step_j[i, j, c]
        is_within_cell = abs(step_i[i, j, c]) < 0.5 and abs(step_j[i, j, c]) < 0.5
        is_within_map = 0 <= y <= height - 1 and 0 <= x <= width - 1
        if is_within_cell and is_within_map:
            places.append((i, j, c))
            positions.append((y, x))
            scores.append(cells[i, j, c])
    return (
        np.array(places, np.int64).reshape(-1, 3),
        np.array(positions, cells.dtype).reshape(-1, 2),
        np.array(scores, cells.dtype),
        detected.any(-1),
    )


def strongest(values, k):
    """Positions of the k largest, largest first; of equals the first one first."""
    return np.array(sorted(range(len(values)), key=lambda n: (-values[n], n))[: max(k, 0)], np.int64)


def two_best(products):
    """For each row: largest product, its column (the first of equals), and the second-largest product."""
    best, index, second = [], [], []
    for row in products:
        ranking = np.argsort(-row, kind="stable")
        best.append(row[ranking[0]])
        index.append(ranking[0])
        second.append(row[ranking[1]] if len(row) > 1 else -np.inf)
    return np.array(best), np.array(index), np.array(second)


def closest_pairs(products, n):
    """(row, column) of the n largest products, largest first; of equals the lower indices first."""
    order = strongest(products.ravel().tolist(), n)
    return np.stack(np.divmod(order, products.shape[1]), axis=1)


def preprocess(image, preprocessing="caffe"):
    """(H, W, 3), red first, 0..255, to what the network takes."""
    image = image.astype(np.float64)
    if preprocessing == "caffe":
        return image[:, :, ::-1] - [103.939, 116.779, 123.68]
    return (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def forward(pixels, arrays, last_relu=True):
    """The dense feature map of preprocessed pixels, in float64."""
    x = pixels.astype(np.float64)

    def layer(x, name, dilation=1):
        return convolution(x, arrays[f"{name}/weight"].astype(np.float64), arrays[f"{name}/bias"], dilation)

    x = relu(layer(x, "conv1_1"))
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


def extract(image, arrays, scales=(1.0,), last_relu=True, preprocessing="caffe"):
    """Keypoints (x, y, scale), scores and descriptors of an image, levels from coarse to fine."""
    pixels = preprocess(image, preprocessing)
    height, width = image.shape[:2]
    coarser = banned = None
    keypoints, scores, descriptors = [np.empty((0, 3))], [np.empty(0)], [np.empty((0, 512))]
    for number, scale in enumerate(sorted(scales), 1):
        level_height, level_width = int(height * scale), int(width * scale)
        cells = forward(resize(pixels, level_height, level_width), arrays, last_relu)
        if coarser is not None:
            cells = cells + resize(coarser, *cells.shape[:2])
        if banned is None:
            banned = np.zeros(cells.shape[:2], bool)
        banned = nearest_resize(banned, *cells.shape[:2])
        _, positions, values, taken = detect(cells, banned)
        banned = banned | taken
        coarser = cells if len(positions) else None
        yx = (4 * positions + 1.5) * [height / level_height, width / level_width]
        keypoints.append(np.column_stack([yx[:, 1], yx[:, 0], np.full(len(yx), 1 / scale)]))
        scores.append(values / number)
        descriptors.append(l2_normalize(sample(cells, positions)[0]))
    return np.concatenate(keypoints), np.concatenate(scores), np.concatenate(descriptors)


def pair_up(found, expected, tolerance=1e-2):
    """Positions of keypoints that stand in both lists, (K, 2): within ``tolerance`` px, of the same scale.

    Both are taken in the order of (scale, y, x), so that the result tells whether that order is the same.
    """
    pairs, used = [], set()
    for b in np.lexsort((expected[:, 0], expected[:, 1], expected[:, 2])):
        distances = np.hypot(found[:, 0] - expected[b, 0], found[:, 1] - expected[b, 1])
        distances[~np.isclose(found[:, 2], expected[b, 2])] = np.inf
        distances[list(used)] = np.inf
        if len(found) and distances.min() <= tolerance:
            used.add(int(distances.argmin()))
            pairs.append((int(distances.argmin()), int(b)))
    return np.array(pairs, np.int64).reshape(-1, 2)
