import warnings

import pytest

from d2np.kernels import compile


def test_works_where_compiled_kernels_cannot_be_kept():
    """Numba finds no folder for a function that stands in no file: as where no folder can be written."""
    namespace = {}
    exec("def more(x): return x + 1\ndef less(x): return x - 1", namespace)
    compile._say_that_nothing_is_kept.cache_clear()
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR"):
        more = compile.jit()(namespace["more"])
    assert more(1) == 2
    with warnings.catch_warnings():  # said once only
        warnings.simplefilter("error")
        assert compile.jit()(namespace["less"])(1) == 0
