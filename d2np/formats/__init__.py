"""Where features go: the layouts of feature files.

``hloc``
    one HDF5 file for many images, as hloc reads and writes it
``hloc_matches``
    one HDF5 file for the matches of many pairs of images, as hloc reads and writes it
``tables``
    the matches of two images as CSV, JSON or ``.npz``
``colmap``
    a COLMAP database of features and matches
``openmvg``
    a folder of features and matches with which openMVG goes on
``npz``, ``mat``
    one file for each image, as the published extraction script writes them
``kapture``
    a kapture folder, as the published script for it adds features to one
"""

from . import colmap, hloc, hloc_matches, kapture, mat, npz, openmvg, tables

__all__ = ["colmap", "hloc", "hloc_matches", "kapture", "mat", "npz", "openmvg", "tables"]
