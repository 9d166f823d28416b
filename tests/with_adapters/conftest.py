"""Makes the packages importable: torchvision without its operators, and as hloc the copy that imcui has."""

import sys
from importlib.util import find_spec
from pathlib import Path

import torchvision_import  # noqa: F401

if find_spec("hloc") is None:
    sys.path.append(str(Path(find_spec("imcui").origin).parent))
