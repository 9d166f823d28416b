"""The instructions that kernels use, and which of them this processor has.

Kernels use no others: so those that one machine has compiled run on any other that has these too. It costs no
speed; see benchmarks/NOTES.md.
"""

from __future__ import annotations

import os

from llvmlite import binding

from ..errors import OptionError

# What kernels need beyond what every processor of the architecture has, in LLVM's words. The most come first.
INSTRUCTIONS = {
    "avx512": ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "avx2": ("avx2", "fma"),
    "avx": ("avx",),
    "neon": ("neon",),
    "sse": (),
}

# LLVM's names of processors that have what every one of their architecture has, and nothing else.
_PLAIN = {"x86_64": "x86-64", "aarch64": "generic", "arm64": "generic"}


def host_has(name: str) -> bool:
    """Tell whether this processor has all instructions of that name."""
    if _architecture() in ("aarch64", "arm64"):
        return name in ("neon", "sse")  # macOS does not tell what there is
    features = binding.get_host_cpu_features()
    return all(features.get(instruction) for instruction in INSTRUCTIONS[name])


def chosen() -> str:
    """Return the name of those that this processor has, or the one that ``D2NP_SIMD`` forces."""
    forced = os.environ.get("D2NP_SIMD")
    if forced and forced not in INSTRUCTIONS:
        raise OptionError(f"D2NP_SIMD must be one of {', '.join(INSTRUCTIONS)}; got {forced!r}")
    return forced or _most()


def target() -> tuple[str, str]:
    """Return LLVM's name of the processor that kernels are compiled for, and its further instructions.

    Where ``D2NP_SIMD`` forces some that this processor lacks, these are its own.
    """
    plain = _PLAIN.get(_architecture())
    if plain is None:
        return binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    forced = os.environ.get("D2NP_SIMD", "")
    name = forced if forced in INSTRUCTIONS and host_has(forced) else _most()
    return plain, ",".join(f"+{instruction}" for instruction in INSTRUCTIONS[name])


def _most() -> str:
    return next(name for name in INSTRUCTIONS if host_has(name))


def _architecture() -> str:
    return binding.get_default_triple().partition("-")[0]
