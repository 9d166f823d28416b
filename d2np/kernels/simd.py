"""Vector registers: the host's block shape and the multiply-add micro-kernel.

This and :mod:`processor` alone know the processor. A *block* is ROWS x (2 x LANES) outputs held in registers
(MR x NR in BLIS): ROWS positions of a map by two vectors of output channels. Each step along the depth costs
two loads of weights, ROWS broadcasts and 2 x ROWS multiply-adds, which is what keeps the multipliers busy.
NEON multiplies by an element of a vector: there one load of a row serves STEPS steps, without broadcasts.
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
    """Shape of the register block: floats in one vector, rows, and steps of the depth that a load serves.

    With one step, an input is broadcast as it is loaded; with more, multiplications are by element.
    """

    lanes: int
    rows: int
    steps: int = 1

    @property
    def columns(self) -> int:
        """Output channels in a block (NR)."""
        return 2 * self.lanes


# Accumulators + 2 weight vectors + 1 broadcast must fit the register file: 32 registers for AVX-512, 16 for
# AVX2, AVX and SSE. On NEON, with 32, it is 4 weight vectors and the inputs of 4 rows beside 24 accumulators.
BLOCKS = {
    "avx512": Block(lanes=16, rows=14),
    "avx2": Block(lanes=8, rows=6),
    "avx": Block(lanes=8, rows=6),
    "neon": Block(lanes=4, rows=12, steps=2),
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
# Sums that a sum of squares is taken in, on every processor.
SUMS = 32
# Rounds of a block by element that share the moves of the pointers to its rows.
_COPIES = 8

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

    def elements(self, vector: Any) -> list[Any]:
        """Return, for each element of a vector of any length, a vector with it in every lane."""
        flag = ir.IntType(32)
        undefined, lanes = ir.Constant(vector.type, ir.Undefined), ir.VectorType(flag, self.lanes)
        masks = (ir.Constant(lanes, [k] * self.lanes) for k in range(vector.type.count))
        return [self.builder.shuffle_vector(vector, undefined, mask) for mask in masks]

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

    def hidden(self, pointer: Any) -> Any:
        """Return the same pointer, which LLVM does not know to be the same. It costs no instruction."""
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.builder.asm(kind, "", "=r,0", [pointer], side_effect=False)

    def load(self, pointer: Any, count: int = 0) -> Any:
        """Return a vector from memory, of ``count`` floats if that is given."""
        kind = ir.VectorType(_FLOAT, count or self.lanes)
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=4)

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

    def rounds(
        self, count: Any, values: Sequence[Any], body: Callable[[int, list[Any]], Sequence[Any]], copies: int
    ) -> Sequence[Any]:
        """Return what values become in ``count`` rounds, which may be none.

        The loop consists of ``copies`` of the body, made by ``body(copy, values)``, with an exit behind each.
        So it does any number of rounds, and LLVM does not mix the copies, which would take more registers.
        """
        builder = self.builder
        entry, done = builder.block, builder.append_basic_block("done")
        heads = [builder.append_basic_block("copy") for _ in range(copies)]
        builder.cbranch(builder.icmp_signed(">", count, _INDEX(0)), heads[0], done)
        builder.position_at_end(heads[0])
        left, *held = phis = [builder.phi(value.type) for value in (count, *values)]
        left_next = builder.sub(left, _INDEX(copies))
        ways = [(entry, values)]
        for copy, (head, following) in enumerate(zip(heads, heads[1:] + heads[:1], strict=True)):
            builder.position_at_end(head)
            held = list(body(copy, held))
            ways.append((head, held))
            builder.cbranch(builder.icmp_signed(">", left, _INDEX(copy + 1)), following, done)
        for phi, start, after in zip(phis, (count, *values), (left_next, *held), strict=True):
            phi.add_incoming(start, entry)
            phi.add_incoming(after, heads[-1])
        builder.position_at_end(done)
        results = [builder.phi(value.type) for value in values]
        for block, kept in ways:
            for result, value in zip(results, kept, strict=True):
                result.add_incoming(value, block)
        return results


def block_sums(
    v: VectorBuilder, a: Any, a_step: Any, depth: Any, b: Any, later: Any, rows: int
) -> Sequence[Any]:
    """Return the sums of a block, two vectors for each row; see :func:`multiply_block`."""
    second = _INDEX(v.lanes)
    # One pointer for every third row: the rows between are reached by the addressing mode's index
    # register, or the pointers would not fit the sixteen integer registers of x86.
    groups = [v.step(a, (r, a_step)) for r in range(0, rows, 3)]

    def add_products(k: Any, held: list[Any]) -> list[Any]:
        b_here, a_here, sums = held[0], held[1 : 1 + len(groups)], held[1 + len(groups) :]
        weights = [v.load(b_here), v.load(v.step(b_here, (1, second)))]
        # The weights stream past: ask for them some steps ahead of their use.
        for half in range(2):
            v.prefetch(v.step(b_here, (2 * _PREFETCH_STEPS + half, second)))
        v.prefetch(v.step(later, (CACHE_LINE, k)), level=2)
        new_sums = []
        for r in range(rows):
            value = v.splat(v.builder.load(v.step(a_here[r // 3], (r % 3, a_step))))
            new_sums += [v.fma(value, weights[half], sums[2 * r + half]) for half in (0, 1)]
        a_next = [v.step(pointer, (1, _INDEX(1))) for pointer in a_here]
        return [v.step(b_here, (2, second)), *a_next, *new_sums]

    held = [b, *groups, *[v.constant(0.0)] * (2 * rows)]
    return v.loop(depth, held, add_products)[1 + len(groups) :]


def block_sums_by_element(
    v: VectorBuilder, a: Any, a_step: Any, depth: Any, b: Any, later: Any, rows: int, steps: int
) -> Sequence[Any]:
    """Return the same sums, bit for bit, in rounds of ``steps`` steps of the depth.

    A round takes one row after the other, and loads it once, as a vector of ``steps`` inputs: so few
    registers hold inputs at a time.
    """
    builder = v.builder
    # Each row has a pointer of its own, which moves once for all copies: hidden, or LLVM would compute most
    # of them from others, again and again. It stands behind the inputs of all copies, since to load from
    # before a pointer (ldur) is one operation on every core, and from behind it (ldr) two on some.
    ahead = _COPIES * steps

    def add_products(b_here: Any, pointers: Sequence[Any], sums: Sequence[Any], count: int) -> list[Any]:
        weights = [v.load(v.step(b_here, (k, _INDEX(v.lanes)))) for k in range(2 * count)]
        new_sums: list[Any] = []
        for r, pointer in enumerate(pointers):
            row = sums[2 * r : 2 * r + 2]
            for k, value in enumerate(v.elements(v.load(pointer, count))):
                row = [v.fma(value, weights[2 * k + half], row[half]) for half in (0, 1)]
            new_sums += row
        return new_sums

    def full_round(copy: int, held: list[Any]) -> list[Any]:
        b_here, later_here, pointers, sums = held[0], held[1], held[2 : 2 + rows], held[2 + rows :]
        if copy == 0:
            pointers = [v.hidden(pointer) for pointer in pointers]
        # One cache line each: a round's weights some steps ahead, and as many of those that come later.
        v.prefetch(v.step(b_here, (_PREFETCH_STEPS, _INDEX(2 * v.lanes))))
        v.prefetch(later_here, level=2)
        inputs = [builder.gep(pointer, [_INDEX(-ahead)]) for pointer in pointers]
        sums = add_products(b_here, inputs, sums, steps)
        pointers = [builder.gep(pointer, [_INDEX(steps)]) for pointer in pointers]
        following = v.step(b_here, (2 * steps, _INDEX(v.lanes))), v.step(later_here, (1, _INDEX(CACHE_LINE)))
        return [*following, *pointers, *sums]

    def last_step(_: int, held: list[Any]) -> list[Any]:
        b_here, done, sums = held[0], held[1], held[2:]
        inputs = [v.step(a, (1, done), (r, a_step)) for r in range(rows)]
        sums = add_products(b_here, inputs, sums, 1)
        return [v.step(b_here, (2, _INDEX(v.lanes))), builder.add(done, _INDEX(1)), *sums]

    pointers = [builder.gep(v.step(a, (r, a_step)), [_INDEX(ahead)]) for r in range(rows)]
    held = [b, later, *pointers, *[v.constant(0.0)] * (2 * rows)]
    rest = builder.urem(depth, _INDEX(steps))
    done = builder.sub(depth, rest)
    b_here, _, *held = v.rounds(builder.udiv(depth, _INDEX(steps)), held, full_round, _COPIES)
    return v.rounds(rest, [b_here, done, *held[rows:]], last_step, 1)[2:]


@intrinsic(prefer_literal=True)
def copy_vector(typingctx, source, place, target, target_place, lanes):
    """Copy as many floats as a vector has lanes from one flat position to another."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    signature = types.void(source, types.int64, target, types.int64, lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, lanes.literal_value)
        v.store(v.load(v.element(sig.args[0], args[0], args[1])), v.element(sig.args[2], args[2], args[3]))
        return nothing(context)

    return signature, codegen


@intrinsic
def sum_of_squares(typingctx, array, count):
    """Return that of the first ``count`` elements, a multiple of SUMS.

    They are added in the same order on every processor, whatever its vectors.
    """
    signature = types.float32(array, types.int64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, SUMS)

        def add_squares(_: int, held: list[Any]) -> list[Any]:
            values = v.load(held[0])
            return [v.step(held[0], (1, _INDEX(SUMS))), v.fma(values, values, held[1])]

        first = v.element(sig.args[0], args[0], _INDEX(0))
        rounds = builder.udiv(args[1], _INDEX(SUMS))
        _, sums = v.rounds(rounds, [first, v.constant(0.0)], add_squares, 1)
        while (lanes := sums.type.count // 2) > 0:
            halves = (
                ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(start, start + lanes)))
                for start in (0, lanes)
            )
            sums = builder.fadd(*(builder.shuffle_vector(sums, sums, half) for half in halves))
        return builder.extract_element(sums, ir.IntType(32)(0))

    return signature, codegen


@intrinsic(prefer_literal=True)
def multiply_block(
    typingctx, a, a_start, a_step, depth, b, b_start, later, c, c_start, c_step, add, lanes, rows, steps
):  # fmt: skip
    """Compute ``c[r, n] = sum over k of a[r, k] * b[k, n]`` for one block, or ``+=`` if ``add`` is true.

    The arrays are float32 and are addressed by flat element positions:

    - ``a``: element (r, k) lies at ``a_start + r * a_step + k``, k < ``depth``;
    - ``b``: packed weights, [depth][2 x lanes] from ``b_start`` on;
    - ``later``: where in ``b`` to fetch a cache line every ``steps`` steps into the second-level cache;
    - ``c``: row r lies at ``c_start + r * c_step``, 2 x lanes elements.

    Nothing outside these elements is read or written. The order of the additions does not depend on where a
    row lies in its block, so results do not depend on how a map is cut into blocks. ``lanes``, ``rows`` and
    ``steps`` are compile-time constants; ``depth`` is at least 1.
    """
    if not all(isinstance(value, types.IntegerLiteral) for value in (lanes, rows, steps)):
        return None
    index = types.int64
    signature = types.void(
        a, index, index, index, b, index, index, c, index, index, types.boolean, lanes, rows, steps
    )
    n_rows, n_steps = rows.literal_value, steps.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, lanes.literal_value)
        a_first = v.element(sig.args[0], args[0], args[1])
        b_first, later_first = (v.element(sig.args[4], args[4], start) for start in args[5:7])
        operands = a_first, args[2], args[3], b_first, later_first, n_rows
        sums = block_sums(v, *operands) if n_steps == 1 else block_sums_by_element(v, *operands, n_steps)
        c_first = v.element(sig.args[7], args[7], args[8])
        for r in range(n_rows):
            for half in (0, 1):
                place = v.step(c_first, (r, args[9]), (half, _INDEX(v.lanes)))
                value = sums[2 * r + half]
                v.store(v.add(value, builder.select(args[10], v.load(place), v.constant(0.0))), place)
        return nothing(context)

    return signature, codegen
