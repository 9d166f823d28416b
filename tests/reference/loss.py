"""Make ``loss.npz``: the published loss and its gradient on two random maps.

usage: python tests/reference/loss.py FOLDER_OF_THE_PUBLISHED_CODE

Needs PyTorch and Matplotlib. The published ``lib/loss.py`` and ``lib/model.py`` run unmodified; a model that
returns the maps stands for the network, and the geometry is that of a plane before two cameras.
"""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

SHAPES = (24, 22, 16), (21, 25, 16)


def maps():
    rng = np.random.default_rng(11)
    return [rng.normal(0.3, 1, shape).astype(np.float32) for shape in SHAPES]


def geometry():
    """Return depth, intrinsics, pose and bounding box for both images, as the published data set has them."""
    turn = np.deg2rad(4)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, 3] = 0.05, -0.03, 0
    found = {}
    for number, (rows, columns, _) in enumerate(SHAPES, 1):
        found[f"depth{number}"] = np.full((4 * rows, 4 * columns), 2.0)
        found[f"intrinsics{number}"] = np.array([[100, 0, 50], [0, 100, 48], [0, 0, 1.0]])
        found[f"pose{number}"] = np.eye(4) if number == 1 else pose
        found[f"bbox{number}"] = np.zeros(2)
    return {name: torch.tensor(value, dtype=torch.float32)[None] for name, value in found.items()}


def main():
    sys.path.insert(0, sys.argv[1])
    # Only the network, which is not used here, needs it.
    sys.modules["torchvision"] = ModuleType("torchvision")
    sys.modules["torchvision.models"] = sys.modules["torchvision"].models = ModuleType("models")
    from lib.loss import loss_function, warp
    from lib.model import SoftDetectionModule
    from lib.utils import downscale_positions, grid_positions, upscale_positions

    tensors = [torch.tensor(cells.transpose(2, 0, 1).copy())[None].requires_grad_() for cells in maps()]
    score = SoftDetectionModule()

    def model(_):
        dense = {f"dense_features{number}": cells for number, cells in enumerate(tensors, 1)}
        return dense | {f"scores{number}": score(cells) for number, cells in enumerate(tensors, 1)}

    batch = geometry()
    images = {f"image{number}": torch.zeros(1) for number in (1, 2)}
    value = loss_function(model, batch | images, "cpu", scaling_steps=2)
    value.backward()
    cells = grid_positions(*SHAPES[0][:2], "cpu")
    names = [f"{name}{number}" for number in (1, 2) for name in ("depth", "intrinsics", "pose", "bbox")]
    _, there, ids = warp(upscale_positions(cells, scaling_steps=2), *(batch[name][0] for name in names))
    second = torch.round(downscale_positions(there, scaling_steps=2))
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        value=value.detach().numpy(),
        first=cells[:, ids].numpy().T.astype(np.uint8),
        second=second.numpy().T.astype(np.uint8),
        gradients=np.concatenate([cells.grad[0].numpy().transpose(1, 2, 0).ravel() for cells in tensors]),
    )


if __name__ == "__main__":
    main()
