"""Makes torchvision importable, also beside a PyTorch that it was not built for, say for CUDA."""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Its compiled operators are missing. What the tests use needs none, and torchvision can be imported once
    # those it mentions are declared.
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")
