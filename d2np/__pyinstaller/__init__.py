"""How PyInstaller freezes a program that uses d2np; found by the entry point ``pyinstaller40``."""

from __future__ import annotations


def hook_folders() -> list[str]:
    """Return the folders that hold hooks."""
    return list(__path__)
