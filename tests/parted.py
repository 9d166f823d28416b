"""The archives that an unfinished job has kept beside its output."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np


def contents(path):
    """All arrays and attributes of a file but the one that tells which job wrote it."""

    def told(node):
        return {key: np.asarray(node.attrs[key]).tolist() for key in node.attrs if key != "d2np_job"}

    found = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset):
            found[name] = node.dtype, node[()].tobytes(), told(node)

    with h5py.File(path) as file:
        file.visititems(visit)
        found["/"] = told(file)
    return found


def archives(output):
    """The archives in ``OUT.parts``, in the order in which they were finished."""
    folder = Path(f"{output}.parts")
    found = [path for path in folder.glob("*.npz") if not path.name.startswith(".")]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def kept(output):
    """The names of what is in the archives that are whole, in that order."""
    found = []
    for path in archives(output):
        try:
            with open(path, "rb") as stream, np.load(stream) as archive:
                for name in archive.files:
                    archive[name]
                found += [group["name"] for group in json.loads(archive["about"].item())["groups"]]
        except Exception:  # what numpy raises of a damaged one
            continue
    return found


def killed_after(count, by="SIGKILL"):
    """The beginning of a script whose process gets a signal once so many archives are kept."""
    return f"""
import os, signal
from d2np import atomic
replace, replaced = os.replace, []
def replace_and_die(source, target):
    replace(source, target)
    replaced.append(str(target).endswith(".npz"))
    if sum(replaced) == {count}:
        os.kill(os.getpid(), signal.{by})
os.replace = replace_and_die
"""
