"""Draw all figures of the pages: ``python docs/images``.

Each is drawn twice, for light and for dark pages. They come out the same each time with one matplotlib, and
what they show is computed by d2np's own code where it can be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import analytic
import bands
import detection
import layout
import loss
import microkernel
import network
import winograd
from matplotlib.figure import Figure
from style import THEMES, Theme, save

DRAWINGS: dict[str, Callable[[Theme], Figure]] = {
    "layout": layout.parts,
    "network": network.layers,
    "cells": network.cells,
    "cone": bands.cone,
    "memory": bands.memory,
    "winograd": winograd.tile,
    "dilation": winograd.dilation,
    "block": microkernel.block,
    "registers": microkernel.registers,
    "hard": detection.hard,
    "localisation": detection.localisation,
    "soft": detection.soft,
    "window": analytic.window,
    "loss": loss.negatives,
}


def draw(folder: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        for theme in THEMES:
            yield save(DRAWINGS[name](theme), folder, name, theme)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of the pages in docs/.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRAWINGS))
    parser.add_argument("-o", dest="folder", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    if unknown := set(options.names) - set(DRAWINGS):
        parser.error(f"there is no figure {', '.join(sorted(unknown))}; there are {', '.join(DRAWINGS)}")
    for path in draw(options.folder, options.names or list(DRAWINGS)):
        print(path)


if __name__ == "__main__":
    main()
