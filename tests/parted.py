"""What an unfinished job has kept beside its output."""

from __future__ import annotations

from pathlib import Path

from d2np.dataset import shards


def kept(output):
    """Names of the whole records in ``OUT.parts``, in the order in which they were done."""
    found = []
    for path in sorted(Path(f"{output}.parts").glob("*.shard")):
        with open(path, "rb") as stream:
            found += [place.name for place in shards.scan(stream, verify=True)]
    return found
