"""The gradients of training against PyTorch's automatic ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2np.training import Correspondences, loss
from d2np.training.layer import LastLayer

MARGIN, SAFE_RADIUS = 1, 4


def soft_scores(features):
    """(c, h, w) -> (h, w), as the paper's equations 3 to 6."""
    x = F.relu(features)
    raised = torch.exp(x / x.max())
    sums = 9 * F.avg_pool2d(F.pad(raised[None], [1] * 4, value=1.0), 3, stride=1)[0]
    products = (raised / sums * (x / x.max(dim=0, keepdim=True)[0])).max(dim=0)[0]
    return products / products.sum()


def sampled(features, positions):
    """(c, h, w), (n, 2) -> (c, n) by bilinear interpolation."""
    size = torch.tensor(features.shape[1:], dtype=positions.dtype) - 1
    grid = (2 * positions / size - 1).flip(1)[None, None]
    return F.grid_sample(features[None], grid, align_corners=True)[0, :, 0]


def distances_beyond(descriptors, others, positions, shape):
    cells = torch.cartesian_prod(*(torch.arange(edge, dtype=positions.dtype) for edge in shape))
    near = ((positions[:, None] - cells).abs().amax(dim=2) <= SAFE_RADIUS).to(others.dtype)
    return (2 - 2 * descriptors.t() @ others + 10 * near).min(dim=1)[0]


def ranking_loss(first, second, pairs):
    places = [torch.tensor(positions, dtype=first.dtype) for positions in pairs]
    one, two = (
        F.normalize(sampled(features, at), dim=0)
        for features, at in zip((first, second), places, strict=True)
    )
    every = [F.normalize(features.flatten(1), dim=0) for features in (first, second)]
    negative = torch.minimum(
        distances_beyond(one, every[1], places[1], second.shape[1:]),
        distances_beyond(two, every[0], places[0], first.shape[1:]),
    )
    scores = [sampled(soft_scores(f)[None], at)[0] for f, at in zip((first, second), places, strict=True)]
    weights = scores[0] * scores[1]
    return (weights * F.relu(MARGIN + 2 - 2 * (one * two).sum(dim=0) - negative)).sum() / weights.sum()


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-8), (np.float32, 1e-4)])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_loss(dtype, error, whole, seed):
    rng = np.random.default_rng(seed)
    maps = [rng.normal(0.3, 1, shape).astype(dtype) for shape in ((18, 22, 40), (21, 17, 40))]
    places = [rng.uniform(0, np.array(cells.shape[:2]) - 1.001, (200, 2)) for cells in maps]
    pairs = Correspondences(*(np.rint(at) if whole else at for at in places))
    found = loss.ranking_loss(*maps, pairs)
    tensors = [torch.tensor(cells.transpose(2, 0, 1).copy(), requires_grad=True) for cells in maps]
    value = ranking_loss(*tensors, pairs)
    value.backward()
    assert found.value == pytest.approx(value.item(), rel=error)
    for gradient, tensor in zip((found.first, found.second), tensors, strict=True):
        assert gradient.dtype == dtype
        automatic = tensor.grad.numpy().transpose(1, 2, 0)
        assert np.abs(gradient - automatic).max() <= error * np.abs(automatic).max()


def test_the_last_layer():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(6, 5, 3, 3)), rng.normal(size=6)
    cells, by_output = rng.normal(size=(11, 12, 5)), rng.normal(size=(11, 12, 6))
    layer = LastLayer(weight, bias)
    tensors = [torch.tensor(array, requires_grad=True) for array in (weight, bias)]
    image = torch.tensor(cells.transpose(2, 0, 1).copy())[None]
    expected = F.conv2d(image, *tensors, padding=2, dilation=2)[0]
    np.testing.assert_allclose(layer.forward(cells), expected.detach().numpy().transpose(1, 2, 0))
    (expected * torch.tensor(by_output.transpose(2, 0, 1).copy())).sum().backward()
    by_taps, by_bias = layer.gradient(cells, by_output)
    np.testing.assert_allclose(by_taps.reshape(3, 3, 5, 6).transpose(3, 2, 0, 1), tensors[0].grad.numpy())
    np.testing.assert_allclose(by_bias, tensors[1].grad.numpy())
