"""Make ``d2np.h5`` from what ``d2np train`` wrote: ``python weights/trained.py my.h5 weights/d2np.h5``.

conv4_3 is rounded to float16; the layers before it are those of ``vgg16.h5`` and stay there. README.md has
the command that trains.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from d2np.weights import h5, load

if __name__ == "__main__":
    trained, target = map(Path, sys.argv[1:])
    h5.write(target, *load(trained), half=True, base="vgg16")
    print(hashlib.sha256(target.read_bytes()).hexdigest())
