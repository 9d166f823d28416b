import re

import pytest
import scripts

from d2np.kernels import processor


@pytest.mark.parametrize(
    ("triple", "host", "forced", "expected"),
    [
        ("x86_64-pc-windows-msvc", {"avx2", "fma", "avx", "sha"}, "", ("x86-64", "+avx2,+fma")),
        ("x86_64-unknown-linux-gnu", {"avx2", "fma", "avx"}, "avx", ("x86-64", "+avx")),
        ("x86_64-unknown-linux-gnu", {"avx2", "fma", "avx"}, "sse", ("x86-64", "")),
        # Never more than there is.
        ("x86_64-unknown-linux-gnu", {"avx2", "fma", "avx"}, "avx512", ("x86-64", "+avx2,+fma")),
        ("x86_64-unknown-linux-gnu", {"avx2", "fma", "avx"}, "neon", ("x86-64", "+avx2,+fma")),
        ("x86_64-unknown-linux-gnu", set(), "avx2", ("x86-64", "")),
        ("x86_64-unknown-linux-gnu", set(), "mmx", ("x86-64", "")),
        ("arm64-apple-darwin23.0.0", set(), "", ("generic", "+neon")),
        ("aarch64-unknown-linux-gnu", {"neon", "sve"}, "avx2", ("generic", "+neon")),
        ("riscv64-unknown-linux-gnu", set(), "", ("host", "+d,-v")),
    ],
)
def test_kernels_are_compiled_for_the_instructions_of_the_block(monkeypatch, triple, host, forced, expected):
    class Features(dict):
        def flatten(self):
            return "+d,-v"

    monkeypatch.setenv("D2NP_SIMD", forced)
    monkeypatch.setattr(processor.binding, "get_default_triple", lambda: triple)
    monkeypatch.setattr(processor.binding, "get_host_cpu_name", lambda: "host")
    monkeypatch.setattr(processor.binding, "get_host_cpu_features", lambda: Features.fromkeys(host, True))
    assert processor.target() == expected


MACHINE_CODE = """
import numpy as np
from d2np.kernels import pool
values = np.ones((3, 64), np.float32)
pool.relu(values)
print(*pool.relu.inspect_asm().values())
"""


def test_machine_code_has_the_instructions_of_the_block_alone(tmp_path):
    for name, other in (("sse", "[yz]mm"), ("avx", "zmm|fma"), ("avx2", "zmm")):
        code = scripts.run(MACHINE_CODE, D2NP_SIMD=name, NUMBA_CACHE_DIR=tmp_path).stdout
        assert "relu" in code
        assert not re.search(other, code), name
