"""How much of an ONNX file is not numbers, found out before the file is parsed.

A parsed message takes up to eighty times the memory of its bytes: a hundred megabytes of empty nodes would
fill any machine. The numbers of tensors stay what they are, so only the rest need be small. The fields are
those of ``onnx.proto``, in protobuf's encoding.
"""

from __future__ import annotations

from ..errors import WeightsError

_LARGEST_REST = 4 << 20  # PyTorch's exporters write 5 to 60 kB

# Which fields of a message hold messages to look into.
_INSIDE = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor"},
    "tensor": {},
}
_NUMBERS = {4, 5, 9, 10}  # of a tensor: float_data, int32_data, raw_data, double_data


def check_size(content: bytes) -> None:
    """Raise WeightsError if the file is truncated, or there is too much in it besides the numbers."""
    _rest(content, 0, len(content), "model", _LARGEST_REST)


def _rest(content: bytes, place: int, end: int, message: str, allowed: int) -> int:
    """What is left of the allowed bytes behind a message."""
    while place < end:
        start = place
        tag, place = _varint(content, place, end)
        number, wire_type = tag >> 3, tag & 7
        inside, length = None, 0
        if wire_type == 0:
            _, place = _varint(content, place, end)
        elif wire_type in (1, 5):
            place += 8 if wire_type == 1 else 4
        elif wire_type == 2:
            length, place = _varint(content, place, end)
            inside = _INSIDE[message].get(number)
        else:
            raise WeightsError(f"damaged ONNX file: unknown encoding at byte {start}")
        if place + length > end:
            raise WeightsError(
                f"truncated or damaged ONNX file: a part from byte {place} to {min(place + length, 2**64)} "
                f"does not fit into the {end} bytes that there are"
            )
        # Even an empty message takes memory.
        allowed -= place - start
        if inside:
            allowed = _rest(content, place, place + length, inside, allowed)
        elif not (message == "tensor" and number in _NUMBERS):
            allowed -= length
        if allowed < 0:
            raise WeightsError(
                f"not a D2-Net: an ONNX file with more than {_LARGEST_REST:,} bytes besides numbers"
            )
        place += length
    return allowed


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise WeightsError(f"truncated or damaged ONNX file: a number ends nowhere, at byte {place}")
