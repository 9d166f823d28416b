"""Packages that are not needed, and what is said where one is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import d2np
from d2np.extras import require

# Numba itself imports scipy where it is there.
EXTRAS = {
    "cryptography", "cv2", "dask", "distributed", "imagecodecs", "kapture", "matplotlib", "onnx",
    "onnxruntime", "pillow_heif", "pooch", "pycolmap", "rawpy", "requests", "scipy.io", "selenium",
    "tifffile", "torch", "urllib3",
}  # fmt: skip


def test_no_module_imports_an_extra():
    """Nor does any module of the package, the command line among them."""
    script = (
        "import importlib, pkgutil, sys, d2np\n"
        "[getattr(d2np, name) for name in d2np.__all__]\n"
        "for module in pkgutil.walk_packages(d2np.__path__, 'd2np.'):\n"
        "    if not module.name.endswith(('__main__', '.hook-d2np')): importlib.import_module(module.name)\n"
        f"print({EXTRAS!r} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "set()\n"


def test_a_package_that_is_there():
    assert require("json", "this needs", "none", d2np.Error) is sys.modules["json"]


def test_a_package_that_is_missing(monkeypatch):
    with pytest.raises(d2np.FormatError, match=r"^X needs the package nosuch_: pip install 'd2np\[some\]'$"):
        require("nosuch_.part", "X needs", "some", d2np.FormatError)
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(d2np.Error, match=r"^X needs the package its-name: pip install 'd2np\[some\]'$"):
        require("json", "X needs", "some", d2np.Error, "its-name")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise ImportError('libGL.so.1: cannot open')", r"libGL.so.1: cannot open"),
        ("import nosuch_", "No module named 'nosuch_'"),
    ],
    ids=["library", "package of its own"],
)
def test_a_package_that_does_not_load(tmp_path, monkeypatch, content, reason):
    (tmp_path / "broken_extra.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = (
        rf"^X needs the package broken_extra, which does not load \({reason}\): pip install 'd2np\[some\]'$"
    )
    with pytest.raises(d2np.Error, match=sentence):
        require("broken_extra", "X needs", "some", d2np.Error)
