import threading
import warnings

import pytest

import d2np
from d2np.kernels import compile, internals


def test_works_where_compiled_kernels_cannot_be_kept(monkeypatch):
    namespace = {}
    exec("def more(x): return x + 1\ndef less(x): return x - 1", namespace)
    monkeypatch.setattr(compile, "_said", threading.Lock())
    monkeypatch.setattr(internals, "_folder", lambda: None)
    with pytest.warns(d2np.CacheWarning, match="set NUMBA_CACHE_DIR"):
        more = compile.jit()(namespace["more"])
    assert more(1) == 2
    with warnings.catch_warnings():  # said once only
        warnings.simplefilter("error")
        assert compile.jit()(namespace["less"])(1) == 0
