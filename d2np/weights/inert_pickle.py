"""Reads pickles without running them.

A pickle is a program for a small stack machine, and Python's own unpickler lets it import and call
anything. Here :func:`pickletools.genops` only decodes the instructions, and those below build plain
containers. Names that a pickle mentions become inert :class:`Global` markers; a "call" of one looks up the
reader's own function for that name, and a name the reader does not know ends the reading.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from ..errors import WeightsError
from .parameters import shortened

LARGEST_PICKLE = 2 * 2**20
"""Bytes; one may make an object of a hundred. The pickle of a D2-Net with its optimiser has 20 thousand."""


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle mentions: its name and nothing else."""

    name: str


class Opaque:
    """Stands for whatever the reader knows to be harmless and has no use for."""

    __slots__ = ()


OPAQUE: Final = Opaque()

Functions = Mapping[str, Callable[..., object]]


def read(stream: BinaryIO, functions: Functions, storage: Callable[[object], object]) -> object:
    """Return the object that a pickle describes.

    Parameters
    ----------
    stream : binary file
        Left right behind the pickle. The caller bounds its size.
    functions : mapping of str to callable
        What stands for ``module.name`` when the pickle calls it. Mentioning any other name is refused.
    storage : callable
        Turns a persistent identifier into an object.

    Returns
    -------
    object
        Scalars, lists, tuples, dicts (keys that are no texts are left out), :class:`Global`,
        :data:`OPAQUE` and what the functions return. The state that a pickle sets on objects is dropped.

    Raises
    ------
    WeightsError
        If the pickle mentions a name that is not in `functions`.
    Exception
        Of almost any kind, if it is truncated or malformed.
    """
    machine = _Machine(functions, storage)
    for instruction, argument, _ in pickletools.genops(stream):
        if instruction.name == "STOP":
            return machine.stack.pop()
        machine.step(instruction.name, argument)
    raise WeightsError("its pickle is truncated: it has no end mark")


# No LONG4: nothing in a checkpoint counts beyond 255 bytes, and such numbers are slow to print.
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_NEW: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: OPAQUE,
}


class _Machine:
    """The stack machine: the instructions that the pickle protocols 2 to 5 write."""

    def __init__(self, functions: Functions, storage: Callable[[object], object]) -> None:
        self.functions = functions
        self.storage = storage
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}
        self.work = 0

    def step(self, name: str, argument: Any) -> None:
        """Follow an instruction."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _LITERALS:
                self.stack.append(argument)
            case _ if name in _NEW:
                self.stack.append(_NEW[name]())
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
            case "POP" | "BUILD":  # of an object's state, which is dropped
                self.stack.pop()
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.last(int(name[-1]))))
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = self.last(1) if name == "APPEND" else self.since_mark()
                if self.stack[-1] is not OPAQUE:
                    self.stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.last(2) if name == "SETITEM" else self.since_mark()
                if self.stack[-1] is not OPAQUE:
                    # Only names are ever looked up. Hashing nested tuples may take forever, and numbers can
                    # be chosen so that all have one hash.
                    pairs = zip(items[::2], items[1::2], strict=True)
                    self.stack[-1].update({key: value for key, value in pairs if isinstance(key, str)})
            case "FROZENSET":
                self.since_mark()
                self.stack.append(OPAQUE)
            case "GLOBAL" | "INST":
                self.stack.append(self.known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                self.stack.append(self.known(*self.last(2)))
            case "REDUCE" | "NEWOBJ":
                self.stack.append(self.call(*self.last(2)))
            case "NEWOBJ_EX":
                function, arguments, _ = self.last(3)
                self.stack.append(self.call(function, arguments))
            case "BINPERSID":
                (identifier,) = self.last(1)
                self.charge(identifier)
                self.stack.append(self.storage(identifier))
            case _:
                raise ValueError(f"instruction {name} is not used by PyTorch")

    def last(self, count: int) -> list[Any]:
        """Take so many objects from the stack."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[Any]:
        """Take the objects above the last mark, and go on with the stack below it."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def charge(self, argument: object) -> None:
        """Bound the work for containers that many calls are given again and again."""
        self.work += len(argument) if isinstance(argument, (tuple, list)) else 1
        if self.work > LARGEST_PICKLE:
            raise ValueError("too many arguments")

    def known(self, module: object, attribute: object) -> Global:
        """Return the marker of a name, which is refused unless it is known."""
        name = f"{shortened(module)}.{shortened(attribute)}"
        if name not in self.functions:
            raise WeightsError(f"wants to run `{shortened(name)}`; d2np loads tensors only, so it is refused")
        return Global(name)

    def call(self, function: object, arguments: object) -> object:
        """Return what the reader has in the place of a call's result."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no function")
        for argument in (arguments, *arguments):
            self.charge(argument)
        return self.functions[function.name](*arguments)
