"""Save an extraction, or run tests and compare one with those that are saved. ``.ci/emulate`` calls it.

Where tests are named they run in this process. Of those that name a kernel's block they are those of this
processor's, since an emulator takes ten times as long to compile.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import d2np
from d2np.kernels import processor, simd

ROOT = Path(__file__).parents[1]


class OwnBlock:
    """A plugin of pytest that leaves out tests of other blocks, and counts those that pass."""

    passed = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        own = simd.host_block()
        items[:] = [
            item
            for item in items
            if getattr(item, "callspec", None) is None or item.callspec.params.get("block", own) == own
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed


def extraction() -> dict[str, np.ndarray]:
    """Return the feature map and the features of a part of a photograph, with trained weights."""
    net = d2np.Net.load(ROOT / "weights" / "vgg16.h5")
    with np.load(ROOT / "tests" / "reference" / "trained_2.npz") as reference:
        image = reference["image"][60:124, 80:160]
    features = net(image)
    names = ("keypoints", "scores", "descriptors")
    return {"map": net.dense(image)} | {name: getattr(features, name) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instructions", choices=processor.INSTRUCTIONS, help="of the processor")
    parser.add_argument("folder", type=Path, help="of saved extractions")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    name = options.instructions
    assert processor.chosen() == name, processor.chosen()
    assert processor.host_has(name)
    if not options.tests:
        np.savez(options.folder / name, **extraction())
        return 0
    start = time.perf_counter()
    plugin = OwnBlock()
    if pytest.main(["-q", "-p", "no:cacheprovider", *options.tests], [plugin]):
        return 1
    found = extraction()
    print(f"{name}: {plugin.passed} tests passed and one extraction, {time.perf_counter() - start:.0f} s")

    fused = dict(np.load(options.folder / "avx2.npz"))
    expected = fused if name == "neon" else dict(np.load(options.folder / f"{name}.npz"))
    for array, wanted in expected.items():
        np.testing.assert_array_equal(found[array], wanted, err_msg=array)
    print("feature map identical to x86_64")
    if name in ("avx", "sse"):
        error = abs(found["map"] - fused["map"]).max() / fused["map"].max()
        assert 0 < error < 5e-6, error
        print(f"without fused multiply-add: {error:.1e} of its maximum from those with it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
