"""Where weights come from: names, HDF5 of d2np and Keras, PyTorch checkpoints, safetensors, ONNX files."""

from . import fetch, onnx
from .files import load, read, save
from .parameters import Provenance, check

__all__ = ["Provenance", "check", "fetch", "load", "onnx", "read", "save"]
