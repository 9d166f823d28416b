"""The steps of the published pipeline in PyTorch, for the comparison of whole extractions.

The same operations in the same order as the published ``lib/model_test.py`` and ``lib/pyramid.py`` carry them
out: ten passes over the map for detection and localisation, then the sampling of descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from engines import torch_model
from numpy.typing import NDArray
from torch.nn import functional

EDGE_THRESHOLD = 5


def _filtered(cells: torch.Tensor, rows: list[list[float]]) -> torch.Tensor:
    """Each channel of (1, C, h, w) filtered with the same 3 x 3 kernel, zeros outside."""
    kernel = torch.tensor(rows, dtype=torch.float32).view(1, 1, 3, 3)
    return functional.conv2d(cells.transpose(0, 1), kernel, padding=1).transpose(0, 1)


def _detections(cells: torch.Tensor) -> torch.Tensor:
    is_cell_maximum = cells == cells.max(dim=1, keepdim=True)[0]
    is_local_maximum = cells == functional.max_pool2d(cells, 3, stride=1, padding=1)
    dii, dij, djj = _second_differences(cells)
    determinant, trace = dii * djj - dij * dij, dii + djj
    threshold = (EDGE_THRESHOLD + 1) ** 2 / EDGE_THRESHOLD
    is_no_edge = (trace * trace / determinant <= threshold) & (determinant > 0)
    return is_cell_maximum & is_local_maximum & is_no_edge


def _second_differences(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        _filtered(cells, [[0, 1, 0], [0, -2, 0], [0, 1, 0]]),
        _filtered(cells, [[0.25, 0, -0.25], [0, 0, 0], [-0.25, 0, 0.25]]),
        _filtered(cells, [[0, 0, 0], [1, -2, 1], [0, 0, 0]]),
    )


def _displacements(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dii, dij, djj = _second_differences(cells)
    determinant = dii * djj - dij * dij
    di = _filtered(cells, [[0, -0.5, 0], [0, 0, 0], [0, 0.5, 0]])
    dj = _filtered(cells, [[0, 0, 0], [-0.5, 0, 0.5], [0, 0, 0]])
    step_i = -(djj / determinant * di - dij / determinant * dj)
    step_j = -(dii / determinant * dj - dij / determinant * di)
    return step_i, step_j


def _sampled(cells: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    top, left = i.floor(), j.floor()
    down, across = i - top, j - left
    rows, columns = (top.long(), i.ceil().long()), (left.long(), j.ceil().long())
    return (
        (1 - down) * (1 - across) * cells[:, rows[0], columns[0]]
        + (1 - down) * across * cells[:, rows[0], columns[1]]
        + down * (1 - across) * cells[:, rows[1], columns[0]]
        + down * across * cells[:, rows[1], columns[1]]
    )


class PublishedPipeline:
    """From a decoded image to keypoints, scores and descriptors, "caffe" preprocessing, no resizing."""

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]], threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = torch_model(arrays)

    @torch.inference_mode()
    def __call__(
        self, img: NDArray[np.uint8], scales: Sequence[float] = (1.0,)
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        mean = np.array([103.939, 116.779, 123.68]).reshape(3, 1, 1)
        planes = img.astype(np.float32).transpose(2, 0, 1)[::-1] - mean
        image = torch.from_numpy(planes[np.newaxis].astype(np.float32))
        keypoints, scores, descriptors = [], [], []
        coarser = banned = None
        for number, scale in enumerate(scales, 1):
            level = functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=True)
            cells = self.model(level)
            height, width = cells.shape[2:]
            if coarser is not None:
                cells = cells + functional.interpolate(
                    coarser, size=(height, width), mode="bilinear", align_corners=True
                )
            detected = _detections(cells)
            if banned is not None:
                banned = functional.interpolate(banned.float(), size=(height, width)).bool()
                detected &= ~banned
            taken = detected.any(dim=1, keepdim=True)
            banned = taken if banned is None else banned | taken
            channel, i, j = detected[0].nonzero(as_tuple=True)
            step_i, step_j = (steps[0, channel, i, j] for steps in _displacements(cells))
            y, x = i + step_i, j + step_j
            keep = (step_i.abs() < 0.5) & (step_j.abs() < 0.5)
            keep &= (y >= 0) & (x >= 0) & (y <= height - 1) & (x <= width - 1)
            if not keep.any():
                coarser = None
                continue
            y, x = y[keep], x[keep]
            descriptors.append(functional.normalize(_sampled(cells[0], y, x), dim=0).T.numpy())
            scores.append((cells[0, channel[keep], i[keep], j[keep]] / number).numpy())
            stretch = [image.shape[axis] / level.shape[axis] for axis in (3, 2)]
            places = [(4 * x + 1.5) * stretch[0], (4 * y + 1.5) * stretch[1], torch.full_like(x, 1 / scale)]
            keypoints.append(torch.stack(places, dim=1).numpy())
            coarser = cells
        return np.concatenate(keypoints), np.concatenate(scores), np.concatenate(descriptors)
