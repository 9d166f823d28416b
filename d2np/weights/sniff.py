"""What a file is, told by its first bytes and never by its extension."""

from __future__ import annotations

from pathlib import PurePath

from .parameters import shortened

HEAD_SIZE = 512
"""How many of a file's first bytes the functions here want to see."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"
# torch's magic number 0x1950a86a20f9469cfc6c, as a pickle's LONG1 holds it
TORCH_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# The fields of ONNX's ModelProto that may follow ir_version: producer, domain, version, texts, graph, opsets.
_ONNX_TAGS = b"\x12\x1a\x22\x28\x32\x3a\x42"

_IMAGES = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"RIFF": "WebP",
}

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"7z\xbc\xaf": "7-Zip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"Rar!": "RAR",
}


def kind(head: bytes) -> str | None:
    """Return the container: hdf5, zip, legacy (PyTorch's old format), safetensors, onnx, or None."""
    if head.startswith(HDF5_SIGNATURE):
        return "hdf5"
    if head.startswith(ZIP_SIGNATURE):
        return "zip"
    # Pickle protocol 4 puts a frame of 9 bytes in front of the number.
    if head.startswith(b"\x80") and TORCH_MAGIC in head[: 11 + len(TORCH_MAGIC)]:
        return "legacy"
    # A count of 64 bits below 16 million, and the JSON that is counted.
    if head[3:9] == b"\0\0\0\0\0{":
        return "safetensors"
    # ONNX has no signature: a message that starts with a small number, its ir_version.
    if len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 0x40 and head[2] in _ONNX_TAGS:
        return "onnx"
    return None


def describe(head: bytes, name: str) -> str:
    """What a file that is not weights seems to be, as the rest of a sentence that starts with its name."""
    if not head:
        return "is empty"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")) or b"<html" in text:
        return "is a web page (HTML), not weights; the download probably ended at an error or log-in page"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the file it stands for; fetch that with `git lfs pull`"
    for signature, format in _IMAGES.items():
        if head.startswith(signature):
            return f"is an image ({format}), not weights"
    for signature, format in _COMPRESSED.items():
        if head.startswith(signature):
            return f"is compressed ({format}); unpack it first"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it, or save a checkpoint that old again with a newer PyTorch"
    if head.startswith(b"\x80") and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "is a Python pickle, but not a PyTorch checkpoint"
    if head.startswith(b"\x93NUMPY"):
        return "is a single NumPy array"
    if _is_text(head):
        return f"is a text file that starts with `{shortened(head[:60].decode('utf-8', 'replace')).strip()}`"
    extension = PurePath(name).suffix or "no extension"
    return f"is of an unknown kind ({extension}, first bytes {head[:8].hex(' ')})"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character cut in two at the end is none of the file's fault
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
