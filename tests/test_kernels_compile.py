import threading
import warnings

import pytest

import d2np
from d2np.kernels import compile


def test_works_where_compiled_kernels_cannot_be_kept(monkeypatch):
    """Numba finds no folder for a function that stands in no file: as where no folder can be written."""
    namespace = {}
    exec("def more(x): return x + 1\ndef less(x): return x - 1", namespace)
    monkeypatch.setattr(compile, "_said", threading.Lock())
    with pytest.warns(d2np.CacheWarning, match="set NUMBA_CACHE_DIR"):
        more = compile.jit()(namespace["more"])
    assert more(1) == 2
    with warnings.catch_warnings():  # said once only
        warnings.simplefilter("error")
        assert compile.jit()(namespace["less"])(1) == 0
