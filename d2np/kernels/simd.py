"""Vector registers: the host's block shape and the multiply-add micro-kernel.

This and :mod:`processor` alone know the processor. A *block* is ROWS x (2 x LANES) outputs held in registers
(MR x NR in BLIS): ROWS positions of a map by two vectors of output channels. Each step along the depth costs
two loads of weights, ROWS broadcasts and 2 x ROWS multiply-adds, which is what keeps the multipliers busy.
The shape reaches the compiler as constants closed over by the kernel, which are part of the key of Numba's
cache: kernels of several widths can live side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compile import array_data, nothing
from .processor import chosen


class Block(NamedTuple):
    """Shape of the register block: floats in one vector, and rows."""

    lanes: int
    rows: int

    @property
    def columns(self) -> int:
        """Output channels in a block (NR)."""
        return 2 * self.lanes


# Accumulators + 2 weight vectors + 1 broadcast must fit the register file: 32 registers for AVX-512 and
# NEON, 16 for AVX2, AVX and SSE.
BLOCKS = {
    "avx512": Block(lanes=16, rows=14),
    "avx2": Block(lanes=8, rows=6),
    "avx": Block(lanes=8, rows=6),
    "neon": Block(lanes=4, rows=12),
    "sse": Block(lanes=4, rows=6),
}


@functools.cache
def host_block() -> Block:
    """Return the block shape for this processor, or the one that ``D2NP_SIMD`` forces by its name."""
    return BLOCKS[chosen()]


# How many steps of the depth ahead of their use weights are fetched.
_PREFETCH_STEPS = 8
# Floats in a cache line.
CACHE_LINE = 16

_FLOAT = ir.FloatType()
_INDEX = ir.IntType(64)


def short_rows(rows: int) -> int:
    """Return the rows of the block that the last few positions are computed with."""
    return rows * 3 // 4


class VectorBuilder:
    """LLVM instructions on vectors of ``lanes`` floats, for use inside an intrinsic.

    Constants may be given as Python floats.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, lanes: int) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.type = ir.VectorType(_FLOAT, lanes)
        self.add, self.sub = builder.fadd, builder.fsub
        # fmuladd becomes one fused instruction where the processor has it; fma would be a slow library
        # call where it has not.
        self._fma = self._declared(f"llvm.fmuladd.v{lanes}f32", ir.FunctionType(self.type, [self.type] * 3))

    def _declared(self, name: str, kind: Any) -> Any:
        """Return a function of LLVM's, declared in the module once."""
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, kind, name)

    def constant(self, value: Any) -> Any:
        return ir.Constant(self.type, [value] * self.lanes) if isinstance(value, float) else value

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c."""
        return self.builder.call(self._fma, [self.constant(a), self.constant(b), self.constant(c)])

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(self.constant(a), self.constant(b))

    def maximum(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def splat(self, scalar: Any) -> Any:
        """Return a vector with one number in every lane."""
        flag = ir.IntType(32)
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, flag(0))
        everywhere = ir.Constant(ir.VectorType(flag, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(single, undefined, everywhere)

    def element(self, array_type: Any, array: Any, offset: Any) -> Any:
        """Return a pointer to an element of an array by its flat position."""
        data = array_data(self.context, self.builder, array_type, array)
        return self.builder.gep(data, [offset], inbounds=True)

    def step(self, pointer: Any, *moves: tuple[int, Any]) -> Any:
        """Return the pointer moved by count x distance elements, for each (count, distance)."""
        for count, distance in moves:
            if count:  # LLVM would see so itself, some thousand times
                move = self.builder.mul(distance, _INDEX(count)) if count > 1 else distance
                pointer = self.builder.gep(pointer, [move], inbounds=True)
        return pointer

    def rows(
        self, array_type: Any, array: Any, starts_type: Any, starts: Any, offset: Any, count: int
    ) -> list[Any]:
        """Return pointers ``offset`` elements behind the positions that the first ``starts`` tell."""
        data = array_data(self.context, self.builder, starts_type, starts)
        return [
            self.step(
                self.element(
                    array_type, array, self.builder.load(self.builder.gep(data, [_INDEX(u)], inbounds=True))
                ),
                (1, offset),
            )
            for u in range(count)
        ]

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.type.as_pointer()), align=4)

    def prefetch(self, pointer: Any, level: int = 1, write: bool = False) -> None:
        """Ask for a cache line, for reading or writing, into the cache of that level. Never faults."""
        byte_pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, flag, flag, flag])
        ask = self._declared("llvm.prefetch.p0", kind)
        line = self.builder.bitcast(pointer, byte_pointer)
        self.builder.call(ask, [line, flag(int(write)), flag(4 - level), flag(1)])

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=4)

    def loop(
        self, count: Any, values: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]
    ) -> Sequence[Any]:
        """Return what values become in ``count`` rounds, one at least: ``body(k, values)`` in each."""
        builder = self.builder
        entry, loop, done = builder.block, *(builder.append_basic_block(name) for name in ("loop", "done"))
        builder.branch(loop)
        builder.position_at_end(loop)
        k, *held = (builder.phi(value.type) for value in (_INDEX(0), *values))
        following = body(k, held)
        k_next = builder.add(k, _INDEX(1))
        builder.cbranch(builder.icmp_signed("<", k_next, count), loop, done)
        starts, nexts = (_INDEX(0), *values), (k_next, *following)
        for phi, start, after in zip((k, *held), starts, nexts, strict=True):
            phi.add_incoming(start, entry)
            phi.add_incoming(after, loop)
        builder.position_at_end(done)
        return following


@intrinsic(prefer_literal=True)
def multiply_block(
    typingctx, a, a_start, a_step, depth, b, b_start, later, c, c_start, c_step, add, lanes, rows
):  # fmt: skip
    """Compute ``c[r, n] = sum over k of a[r, k] * b[k, n]`` for one block, or ``+=`` if ``add`` is true.

    The arrays are float32 and are addressed by flat element positions:

    - ``a``: element (r, k) lies at ``a_start + r * a_step + k``, k < ``depth``;
    - ``b``: packed weights, [depth][2 x lanes] from ``b_start`` on;
    - ``later``: where in ``b`` to fetch a cache line at each step of the depth into the second-level cache;
    - ``c``: row r lies at ``c_start + r * c_step``, 2 x lanes elements.

    Nothing outside these elements is read or written. The order of the additions does not depend on where a
    row lies in its block, so results do not depend on how a map is cut into blocks. ``lanes`` and ``rows``
    are compile-time constants; ``depth`` is at least 1.
    """
    if not all(isinstance(value, types.IntegerLiteral) for value in (lanes, rows)):
        return None
    index = types.int64
    signature = types.void(
        a, index, index, index, b, index, index, c, index, index, types.boolean, lanes, rows
    )
    n_lanes, n_rows = lanes.literal_value, rows.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, n_lanes)
        second = _INDEX(n_lanes)
        a_first = v.element(sig.args[0], args[0], args[1])
        b_first = v.element(sig.args[4], args[4], args[5])
        # One pointer for every third row: the rows between are reached by the addressing mode's index
        # register, or the pointers would not fit the sixteen integer registers of x86.
        a_groups = [v.step(a_first, (r, args[2])) for r in range(0, n_rows, 3)]
        later_first = v.element(sig.args[4], args[4], args[6])

        def add_products(k: Any, held: list[Any]) -> list[Any]:
            b_here, a_here, sums = held[0], held[1 : 1 + len(a_groups)], held[1 + len(a_groups) :]
            weights = [v.load(b_here), v.load(v.step(b_here, (1, second)))]
            # The weights stream past: ask for them some steps ahead of their use.
            for half in range(2):
                v.prefetch(v.step(b_here, (2 * _PREFETCH_STEPS + half, second)))
            v.prefetch(v.step(later_first, (CACHE_LINE, k)), level=2)
            new_sums = []
            for r in range(n_rows):
                value = v.splat(builder.load(v.step(a_here[r // 3], (r % 3, args[2]))))
                new_sums += [v.fma(value, weights[half], sums[2 * r + half]) for half in (0, 1)]
            a_next = [v.step(pointer, (1, _INDEX(1))) for pointer in a_here]
            return [v.step(b_here, (2, second)), *a_next, *new_sums]

        held = [b_first, *a_groups, *[v.constant(0.0)] * (2 * n_rows)]
        sums = v.loop(args[3], held, add_products)[1 + len(a_groups) :]
        c_first = v.element(sig.args[7], args[7], args[8])
        for r in range(n_rows):
            for half in (0, 1):
                place = v.step(c_first, (r, args[9]), (half, second))
                value = sums[2 * r + half]
                v.store(v.add(value, builder.select(args[10], v.load(place), v.constant(0.0))), place)
        return nothing(context)

    return signature, codegen
