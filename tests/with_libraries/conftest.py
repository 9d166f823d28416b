"""Makes the libraries importable: Keras computes with PyTorch, torchvision need not have its operators."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Built for another PyTorch than this one, say for CUDA: its compiled operators are missing. VGG uses
    # none, and torchvision can be imported once those it mentions are declared.
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")
