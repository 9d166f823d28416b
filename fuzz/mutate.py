"""Mutations of small valid files: what damage, truncation and malice do to them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

# Where sizes, counts and offsets are checked wrongly, if they are.
_EDGES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40)
_LARGE = (2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_NUMERALS = (*map(str, (*_EDGES, *_LARGE, -1, 2**70)), "1e400", "NaN", "-0.0", "9" * 5000, "²", "null", '"x"')
_NUMERAL = re.compile(rb"\d+")


def mutated(rng: random.Random, seeds: Sequence[bytes], words: Sequence[bytes], most: int) -> bytes:
    """One of the seeds with some changes.

    Parameters
    ----------
    rng : random.Random
    seeds : list of bytes
        Valid files, and such as once were read wrongly.
    words : list of bytes
        What the format has a meaning for.
    most : int
        The longest result, in bytes.
    """
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        rng.choice(_CHANGES)(rng, data, seeds, words)
    return bytes(data[:most])


def _place(rng: random.Random, data: bytearray) -> int:
    """Where to change something; rather not in the long runs of zeros that some formats have."""
    for _ in range(8):
        place = rng.randrange(len(data))
        if data[place]:
            break
    return place


def _flip(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _field(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    """A number of fixed size, as headers have them."""
    size = rng.choice((2, 4, 4, 8, 8))
    if len(data) >= size:
        place = min(_place(rng, data), len(data) - size)
        if rng.random() < 0.5:
            place -= place % size
        value = rng.choice(_EDGES + _LARGE) % 2 ** (8 * size)
        data[place : place + size] = value.to_bytes(size, rng.choice(("little", "little", "big")))


def _numeral(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    """A number written in digits."""
    start = rng.randrange(len(data) + 1)
    found = _NUMERAL.search(data, start) or _NUMERAL.search(data)
    if found:
        data[found.start() : found.end()] = rng.choice(_NUMERALS).encode()


def _truncate(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _delete(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    del data[place : place + rng.choice((1, 2, 4, 8, 64))]


def _repeat(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    place, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 128))
    data[place:place] = data[place : place + length] * rng.choice((1, 1, 2, 40, 1000))


def _insert(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.randbytes(rng.choice((1, 2, 4, 9)))


def _word(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    """Something that means something, inserted or in place of what is there."""
    if words:
        word = rng.choice(words)
        place = rng.randrange(len(data) + 1)
        data[place : place + rng.choice((0, len(word)))] = word


def _move(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    """A piece of the file, over another one."""
    length = rng.choice((1, 4, 8, 32))
    source, target = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    piece = data[source : source + length]
    data[target : target + len(piece)] = piece


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    """Goes on as another file does."""
    other = rng.choice(seeds)
    place = rng.randrange(min(len(data), len(other)) + 1)
    data[place:] = other[place:]


_CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None], ...] = (
    *(_flip, _byte, _byte, _field, _field, _field, _numeral, _numeral, _truncate, _delete, _repeat),
    *(_insert, _word, _word, _move, _splice),
)
