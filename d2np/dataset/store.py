"""Where the workers of a cluster leave what they have done: a folder that all of them see, or a URL.

A file has its name once it is whole: it is written under another one, flushed, and renamed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .. import streams
from ..atomic import sync_folder
from ..errors import FormatError
from ..images.remote import file_system, is_url, local_path, reason_of

UNFINISHED = ".unfinished"
"""What the names of files end with that are being written."""


class Store:
    """Files in one folder, or at one URL that fsspec knows. Can be pickled.

    Parameters
    ----------
    where : str
        A folder or a URL.
    """

    def __init__(self, where: str) -> None:
        path = local_path(where) or where
        self.where = path if is_url(path) else os.path.abspath(path)

    def make(self) -> None:
        """Make the folder, where folders need to be made.

        Raises
        ------
        FormatError
            If this cannot be done.
        """
        with self._problems():
            if self._is_remote:
                system, folder = self._system()
                system.makedirs(folder, exist_ok=True)
            elif os.path.exists(self.where) and not os.path.isdir(self.where):
                raise FormatError(f"{self.where}: is no folder that workers could write into")
            else:
                os.makedirs(self.where, exist_ok=True)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A stream whose content gets the name, in place of what has it, when the block ends well.

        Raises
        ------
        FormatError
            If it cannot be written.
        """
        # Two workers may do the same work at once, when one of them was thought to be dead.
        temporary = f"{name}.{secrets.token_hex(4)}{UNFINISHED}"
        with self._problems():
            try:
                if self._is_remote:
                    system, folder = self._system()
                    with system.open(f"{folder}/{temporary}", "wb") as stream:
                        yield stream
                    system.mv(f"{folder}/{temporary}", f"{folder}/{name}")
                else:
                    with open(os.path.join(self.where, temporary), "xb", buffering=0) as stream:
                        yield stream
                        os.fsync(stream.fileno())
                    os.replace(os.path.join(self.where, temporary), os.path.join(self.where, name))
                    sync_folder(Path(self.where))
            except BaseException:
                with suppress(FormatError):
                    self.remove(temporary)
                raise

    def names(self) -> list[str]:
        """All there are, in alphabetical order; none if there is no such folder.

        Raises
        ------
        FormatError
            If it cannot be listed.
        """
        with self._problems():
            try:
                if not self._is_remote:
                    return sorted(os.listdir(self.where))
                system, folder = self._system()
                system.invalidate_cache(folder)
                return sorted(path.rstrip("/").rpartition("/")[2] for path in system.ls(folder, detail=False))
            except FileNotFoundError:
                return []

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO | None]:
        """A file as a stream in which can be sought; None if there is no such file.

        Raises
        ------
        FormatError
            If it cannot be read.
        """
        with self._problems(), ExitStack() as open_files:
            stream: BinaryIO | None
            try:
                if self._is_remote:
                    system, folder = self._system()
                    stream = open_files.enter_context(system.open(f"{folder}/{name}", "rb"))
                else:
                    stream = open_files.enter_context(streams.opened(os.path.join(self.where, name)))
            except FileNotFoundError:
                stream = None
            yield stream

    def read(self, name: str, sha256: str) -> bytes:
        """The content of a file that must have this checksum.

        Raises
        ------
        FormatError
            If it cannot be read, or is another one.
        """
        with self._problems():
            if self._is_remote:
                system, folder = self._system()
                content = bytes(system.cat_file(f"{folder}/{name}"))
            else:
                content = streams.read(os.path.join(self.where, name))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise FormatError(f"{self.where}: {name} was changed by somebody else")
        return content

    def take(self, name: str, target: Path) -> None:
        """Move a file to where there is none yet, on this machine.

        Raises
        ------
        FormatError
            If this cannot be done.
        """
        partial = target.with_name(target.name + UNFINISHED)
        source = os.path.join(self.where, name)
        if not self._is_remote:
            with suppress(OSError):  # on another disk
                os.replace(source, target)
                sync_folder(target.parent)
                return
        with self._problems():
            try:
                if self._is_remote:
                    system, folder = self._system()
                    system.get_file(f"{folder}/{name}", str(partial))
                else:
                    shutil.copyfile(source, partial)
                # Windows flushes only what may be written.
                with open(partial, "rb+") as stream:
                    os.fsync(stream.fileno())
                os.replace(partial, target)
                sync_folder(target.parent)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        FormatError
            If it cannot be removed.
        """
        with self._problems(), suppress(FileNotFoundError):
            if self._is_remote:
                system, folder = self._system()
                system.rm_file(f"{folder}/{name}")
            else:
                os.unlink(os.path.join(self.where, name))

    @property
    def _is_remote(self) -> bool:
        return is_url(self.where)

    def _system(self) -> tuple[Any, str]:
        """The file system of the URL, and the folder there."""
        system, folder = file_system(self.where, FormatError)
        return system, folder.rstrip("/")

    @contextmanager
    def _problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FormatError(f"{self.where}: {reason_of(error)}") from error
        except FormatError:
            raise
        except (ImportError, ValueError) as error:
            raise FormatError(f"{self.where}: {reason_of(error)}") from error
