"""Numba kernels: arrays in, arrays out. No classes, no files, no options.

Every kernel is single-threaded, releases the interpreter lock and trusts its arguments; the public
functions around them check. Each is compared with a function of :mod:`d2np.reference`, which says in plain
NumPy what it computes.
"""

from ..errors import Error

_INSTEAD = "d2np.reference computes the same in plain NumPy"

try:
    import numba
except ImportError as problem:
    raise Error(
        f"kernels are compiled by the package numba, which cannot be imported ({problem}); {_INSTEAD}"
    ) from None

if getattr(numba.config, "DISABLE_JIT", False):
    raise Error(f"kernels run only where they are compiled, and NUMBA_DISABLE_JIT is set; {_INSTEAD}")
