"""Vector registers: the host's block shape and the multiply-add micro-kernel.

This is the one place that knows the processor. A *block* is ROWS x (2 x LANES) outputs held in registers
(MR x NR in BLIS): ROWS positions of a map by two vectors of output channels. Each step along the depth
costs two loads of weights, ROWS broadcasts and 2 x ROWS multiply-adds, which is what keeps the
multipliers busy. The shape reaches the compiler as constants closed over by the kernel, which are part
of the key of Numba's cache: kernels of several widths can live side by side.
"""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


class Block(NamedTuple):
    """Shape of the register block: floats in one vector, and rows."""

    lanes: int
    rows: int

    @property
    def columns(self) -> int:
        """Output channels in a block (NR)."""
        return 2 * self.lanes


# Accumulators + 2 weight vectors + 1 broadcast must fit the register file: 32 registers for AVX-512 and
# NEON, 16 for AVX2 and SSE.
BLOCKS = {
    "avx512": Block(lanes=16, rows=14),
    "avx2": Block(lanes=8, rows=6),
    "neon": Block(lanes=4, rows=12),
    "sse": Block(lanes=4, rows=6),
}


@functools.cache
def host_block() -> Block:
    """The block shape for this processor; ``D2NP_SIMD`` forces one of :data:`BLOCKS` by name."""
    forced = os.environ.get("D2NP_SIMD")
    if forced:
        if forced not in BLOCKS:
            raise ValueError(f"D2NP_SIMD must be one of {', '.join(BLOCKS)}; got {forced!r}")
        return BLOCKS[forced]
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return BLOCKS["avx512"]
    if features.get("avx2") and features.get("fma"):
        return BLOCKS["avx2"]
    if features.get("neon") or binding.get_default_triple().startswith(("aarch64", "arm64")):
        return BLOCKS["neon"]
    return BLOCKS["sse"]


# How many steps of the depth ahead of their use weights are fetched.
_PREFETCH_STEPS = 8

_FLOAT = ir.FloatType()
_INDEX = ir.IntType(64)


@intrinsic(prefer_literal=True)
def multiply_block(  # type: ignore[no-untyped-def]
    typingctx, a, a_start, a_step, taps, depth, b, b_start, bias, bias_start, floor, c, c_start, c_step, lanes, rows
):
    """``c[r, n] = max(floor, bias[n] + sum over t, k of a[taps[t] + r, k] * b[t, k, n])`` for one block.

    All arrays are C-contiguous float32 (``taps`` int64) and are addressed by flat element positions:

    - ``a``: element (r, k) of tap t lies at ``a_start + taps[t] + r * a_step + k``, k < ``depth``;
    - ``b``: packed weights, [tap][depth][2 x lanes] from ``b_start`` on;
    - ``c``: row r is written at ``c_start + r * c_step``, 2 x lanes elements;
    - ``bias``: 2 x lanes elements from ``bias_start`` on.

    Nothing outside these elements is read or written. ``floor`` is 0 for a ReLU and -inf for none. The
    order of the additions does not depend on where a row lies in its block, so results do not depend on
    how a map is cut into blocks. ``lanes`` and ``rows`` are compile-time constants.
    """
    if not (isinstance(lanes, types.IntegerLiteral) and isinstance(rows, types.IntegerLiteral)):
        return None
    signature = types.void(
        a, types.int64, types.int64, taps, types.int64, b, types.int64, bias, types.int64, types.float32,
        c, types.int64, types.int64, lanes, rows,
    )  # fmt: skip
    n_lanes, n_rows = lanes.literal_value, rows.literal_value
    vector = ir.VectorType(_FLOAT, n_lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def base(position: int) -> Any:
            return context.make_array(sig.args[position])(context, builder, args[position]).data

        def at(pointer: Any, offset: Any) -> Any:
            return builder.gep(pointer, [offset], inbounds=True)

        def load_vector(pointer: Any) -> Any:
            return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)

        def splat(scalar: Any) -> Any:
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), n_lanes), [0] * n_lanes)
            return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), mask)

        # fmuladd becomes one fused instruction where the processor has it; fma would be a slow library
        # call where it has not.
        name = f"llvm.fmuladd.v{n_lanes}f32"
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), name
        )
        byte_pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte_pointer, flag, flag, flag]), "llvm.prefetch.p0"
        )
        one, zero = _INDEX(1), _INDEX(0)
        second = _INDEX(n_lanes)
        (a_start_v, a_step_v), depth_v = args[1:3], args[4]
        b_first = at(base(5), args[6])
        bias_first = at(base(7), args[8])
        bias_vectors = [load_vector(bias_first), load_vector(at(bias_first, second))]
        start = [bias_vectors[half] for _ in range(n_rows) for half in (0, 1)]
        tap_array = context.make_array(sig.args[3])(context, builder, args[3])
        tap_count = builder.extract_value(tap_array.shape, 0)
        a_first = at(base(0), a_start_v)

        entry = builder.block
        tap_head = builder.append_basic_block("tap")
        depth_head = builder.append_basic_block("depth")
        tap_end = builder.append_basic_block("tap.end")
        done = builder.append_basic_block("done")
        builder.branch(tap_head)

        builder.position_at_end(tap_head)
        tap = builder.phi(_INDEX)
        tap_sums = [builder.phi(vector) for _ in start]
        b_tap = builder.phi(b_first.type)
        tap_offset = builder.load(at(tap_array.data, tap))
        a_tap = at(a_first, tap_offset)
        # One pointer for every third row: the rows between are reached by the addressing mode's index
        # register, or the pointers would not fit the sixteen integer registers of x86.
        a_groups = [at(a_tap, builder.mul(a_step_v, _INDEX(r))) for r in range(0, n_rows, 3)]
        twice = builder.mul(a_step_v, _INDEX(2))
        builder.branch(depth_head)

        builder.position_at_end(depth_head)
        k = builder.phi(_INDEX)
        sums = [builder.phi(vector) for _ in start]
        b_here = builder.phi(b_first.type)
        a_here = [builder.phi(b_first.type) for _ in a_groups]
        weights = [load_vector(b_here), load_vector(at(b_here, second))]
        # The weights stream past once: ask for them some steps ahead of their use.
        ahead = builder.gep(b_here, [_INDEX(2 * n_lanes * _PREFETCH_STEPS)])
        for half in (0, 1):
            line = builder.bitcast(builder.gep(ahead, [_INDEX(half * n_lanes)]), byte_pointer)
            builder.call(prefetch, [line, flag(0), flag(3), flag(1)])  # for reading, keep, data
        new_sums = []
        for r in range(n_rows):
            pointer = a_here[r // 3]
            if r % 3:
                pointer = at(pointer, a_step_v if r % 3 == 1 else twice)
            value = splat(builder.load(pointer))
            for half in (0, 1):
                new_sums.append(builder.call(multiply_add, [value, weights[half], sums[2 * r + half]]))
        b_next = at(b_here, _INDEX(2 * n_lanes))
        a_next = [at(pointer, one) for pointer in a_here]
        k_next = builder.add(k, one)
        builder.cbranch(builder.icmp_signed("<", k_next, depth_v), depth_head, tap_end)
        k.add_incoming(zero, tap_head)
        k.add_incoming(k_next, depth_head)
        b_here.add_incoming(b_tap, tap_head)
        b_here.add_incoming(b_next, depth_head)
        for phi, first, following in zip(a_here, a_groups, a_next, strict=True):
            phi.add_incoming(first, tap_head)
            phi.add_incoming(following, depth_head)
        for phi, first, following in zip(sums, tap_sums, new_sums, strict=True):
            phi.add_incoming(first, tap_head)
            phi.add_incoming(following, depth_head)

        builder.position_at_end(tap_end)
        tap_next = builder.add(tap, one)
        builder.cbranch(builder.icmp_signed("<", tap_next, tap_count), tap_head, done)
        tap.add_incoming(zero, entry)
        tap.add_incoming(tap_next, tap_end)
        b_tap.add_incoming(b_first, entry)
        b_tap.add_incoming(b_next, tap_end)
        for phi, first, following in zip(tap_sums, start, new_sums, strict=True):
            phi.add_incoming(first, entry)
            phi.add_incoming(following, tap_end)

        builder.position_at_end(done)
        lowest = splat(args[9])
        c_first = at(base(10), args[11])
        c_step_v = args[12]
        for r in range(n_rows):
            row = at(c_first, builder.mul(c_step_v, _INDEX(r)))
            for half in (0, 1):
                value = new_sums[2 * r + half]
                above = builder.fcmp_ordered(">", value, lowest)
                value = builder.select(above, value, lowest)
                target = builder.bitcast(at(row, _INDEX(half * n_lanes)), vector.as_pointer())
                builder.store(value, target, align=4)
        return context.get_dummy_value()

    return signature, codegen
