import gc
import warnings

import pytest

import d2np
from d2np.kernels import compile


def test_works_where_compiled_kernels_cannot_be_kept(monkeypatch):
    namespace = {}
    exec("def more(x): return x + 1\ndef less(x): return x - 1", namespace)
    monkeypatch.setattr(compile, "_said", [])
    monkeypatch.setattr(compile, "_folder", lambda: None)
    with pytest.warns(d2np.CacheWarning, match="set NUMBA_CACHE_DIR"):
        more = compile.jit()(namespace["more"])
    assert more(1) == 2
    with warnings.catch_warnings():  # said once only
        warnings.simplefilter("error")
        assert compile.jit()(namespace["less"])(1) == 0


def test_compiling_is_told_once_and_only_where_it_happens(monkeypatch, tmp_path):
    # Without a name of its own it would be kept with all of `builtins`, where other tests may leave anything.
    namespace = {"__name__": "somewhere"}
    exec("def more(x): return x + 1", namespace)
    monkeypatch.setattr(compile, "_folder", lambda: tmp_path)
    told = []
    compile.before_compiling(lambda: told.append("compiled"))
    more = compile.jit()(namespace["more"])
    assert not told
    assert (more(1), more(1.5)) == (2, 2.5)
    assert told == ["compiled"]
    compile.before_compiling(lambda: told.append("again"))
    assert compile.jit()(namespace["more"])(1) == 2  # from the cache
    assert told == ["compiled"]
    compile.before_compiling(lambda: None)


@pytest.mark.parametrize("enabled", [True, False])
def test_compiling_leaves_the_garbage_collector_as_it_was(monkeypatch, tmp_path, enabled):
    def collecting(x):
        return unknown(x)  # noqa: F821

    monkeypatch.setattr(compile, "_folder", lambda: tmp_path)
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(Exception, match="unknown"):
            compile.jit()(collecting)(1)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
