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


def killed_after(records, by="SIGKILL"):
    """The beginning of a script whose process gets a signal once so many records are kept."""
    return f"""
import os, signal
from d2np.dataset import shards
append, appended = shards.ShardWriter.append, []
def append_and_die(*given):
    place = append(*given)
    appended.append(None)
    if len(appended) == {records}:
        os.kill(os.getpid(), signal.{by})
    return place
shards.ShardWriter.append = append_and_die
"""
