"""The kind of a file, told by its first bytes and never by its extension."""

from __future__ import annotations

from typing import Literal, TypeAlias

Container: TypeAlias = Literal["HDF5", "PyTorch", "safetensors", "ONNX"]

HEAD_SIZE = 512
"""How many of a file's first bytes the functions here want to see."""

# torch's magic number 0x1950a86a20f9469cfc6c, as a pickle's LONG1 holds it
_TORCH_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# The fields of ONNX's ModelProto that may follow ir_version: producer, domain, version, texts, graph, opsets.
_ONNX_TAGS = b"\x12\x1a\x22\x28\x32\x3a\x42"


def container(head: bytes) -> Container | None:
    """Return what may hold weights and begins with these bytes."""
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5"
    # The old format is a row of pickles; protocol 4 puts a frame of 9 bytes in front of the number.
    if head.startswith(b"PK\x03\x04") or (head.startswith(b"\x80") and _TORCH_MAGIC in head[:23]):
        return "PyTorch"
    # A count of 64 bits below 16 million, and the JSON that is counted.
    if head[3:9] == b"\0\0\0\0\0{":
        return "safetensors"
    # ONNX has no signature: a message that starts with a small number, its ir_version.
    if len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 0x40 and head[2] in _ONNX_TAGS:
        return "ONNX"
    return None


def describe(head: bytes) -> str:
    """Say what a file that is not weights seems to be, as the rest of a sentence after its name."""
    if not head:
        return "is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<!doctype html") or b"<html" in start:
        return "is a web page (HTML), not weights; the download probably ended at an error or log-in page"
    return f"is of an unknown kind, and starts with {head[:50]!r}"
