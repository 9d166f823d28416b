"""Numba kernels: arrays in, arrays out. No classes, no files, no options.

Every kernel is single-threaded, releases the interpreter lock and trusts its arguments; the public
functions around them check. Each has a reference implementation in ``tests/naive.py`` that says what it
computes.
"""
