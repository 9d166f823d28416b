"""The version of d2np."""

__version__ = "1.0.0"
