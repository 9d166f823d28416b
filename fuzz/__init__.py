"""Fuzzing of everything in d2np that reads files: see README.md in this folder."""

import sys
from pathlib import Path

# Small checkpoints are made as the tests make them.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
