"""Makes the libraries importable: Keras computes with PyTorch, torchvision need not have its operators."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import torchvision_import  # noqa: F401
