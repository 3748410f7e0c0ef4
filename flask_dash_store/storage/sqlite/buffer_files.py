"""The buffers of large values: files beside the database, which are memory-mapped to read them.

A file is written under a temporary name and renamed before the row that names it is committed. It is unlinked after the
commit that has replaced or deleted the row. It is never changed. So a reader that does not find a file has lost a race,
and reads its row again. A file that no row names is an orphan of a crash. Windows neither unlinks nor replaces a file
that is open or mapped; there, maintenance unlinks it later.

A file is only synced if acknowledged writes must survive a power loss. The checksum in its header shows whether it is
complete after one. It is verified once after each boot.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import struct
import uuid
import weakref
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from ...buffers import ALIGNMENT, Buffers
from ...errors import StorageCorrupt, StorageError, StorageFull
from .files import NO_SPACE

_MAGIC = b"flask_dash_store"
_HEADER = struct.Struct("<16s32sQI")
_NAME = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = ".tmp"
HELD = "held-"
"""The prefix of the directory in which a running backup keeps links to buffers."""
# Python keeps a mapped file open, and a process may have 1024 open files, including its sockets.
MAX_MAPS = 256
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR
# Windows cannot open directories. NTFS journals them.
_DIRECTORY = getattr(os, "O_DIRECTORY", None)


def buffers_beside(database: str | Path) -> Path:
    """The directory with the buffers of a database file."""
    return Path(f"{database}.buffers")


def copy_file(source: Path, target: Path) -> None:
    """Copy the file of one value's buffers. Once the target exists, it is complete and synced."""
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        with open(source, "rb") as original, open(os.open(temporary, _NEW, 0o600), "wb") as copy:
            shutil.copyfileobj(original, copy, 2**20)
            copy.flush()
            os.fsync(copy.fileno())
        os.rename(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class BufferFiles:
    """The files of buffers in a directory.

    :param sync: whether buffers must survive a power loss as soon as they are written
    """

    def __init__(self, directory: Path, sync: bool) -> None:
        self._directory = directory
        self._sync = sync
        self._in_use: set[str] = set()
        """Files that could not be unlinked because a process has them mapped."""

    def write(self, buffers: Buffers) -> None:
        """Write buffers to a file.

        :raises StorageError: if that fails; then there is no file
        """
        try:
            try:
                self._write(buffers)
            except FileNotFoundError:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                if self._sync:
                    sync_directory(self._directory.parent)
                self._write(buffers)
        except OSError as error:
            if error.errno is None:
                raise  # Raised by a signal handler, such as a TimeoutError.
            kind = StorageFull if error.errno in NO_SPACE else StorageError
            raise kind(f"A large value could not be written to {self._directory}: {error.strerror}.") from error

    def _write(self, buffers: Buffers) -> None:
        path = self._path(buffers.name)
        temporary = path + _TEMPORARY
        descriptor = os.open(temporary, _NEW, 0o600)
        try:
            with open(descriptor, "w+b", buffering=0) as file:
                file.seek(ALIGNMENT)
                for chunk in buffers.chunks():
                    rest = chunk
                    while rest.nbytes:
                        rest = rest[file.write(rest) :]
                # The checksum of the file, not of the buffers, which another thread may have changed since.
                checksum = _checksum_of_file(file, buffers.nbytes)
                file.seek(0)
                file.write(
                    _HEADER.pack(_MAGIC, buffers.name.encode(), buffers.nbytes, checksum).ljust(ALIGNMENT, b"\0")
                )
                if self._sync:
                    os.fsync(descriptor)
            _rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        if self._sync:
            sync_directory(self._directory)

    def read(self, name: str, may_be_torn: bool) -> Buffers | None:
        """The buffers, in one piece. The caller may change it; this does not change the file.

        :param may_be_torn: whether the file may be incomplete after a power loss, so that its checksum is verified
        :returns: None if there is no file of this name, or if it is incomplete after a power loss
        :raises StorageCorrupt: if it is damaged for another reason
        """
        path = self._path(name)
        try:
            whole = memoryview(_map_or_copy(path))
        except FileNotFoundError:
            return None
        except ValueError:  # An empty file cannot be mapped.
            whole = memoryview(b"")
        except OSError as error:
            raise StorageError(f"A large value could not be read: {error.strerror}: {path}.") from error
        buffers = Buffers(name, [whole[ALIGNMENT:]])
        if whole.nbytes < ALIGNMENT:
            return self._none_if_torn(name, may_be_torn)
        magic, written_name, nbytes, checksum = _HEADER.unpack_from(whole)
        is_whole = magic == _MAGIC and nbytes == buffers.nbytes
        if not is_whole or (may_be_torn and checksum != zlib.crc32(buffers.views[0])):
            return self._none_if_torn(name, may_be_torn)
        return buffers._replace(name=written_name.decode("ascii", "replace"))

    def _none_if_torn(self, name: str, may_be_torn: bool) -> Buffers | None:
        if not may_be_torn:
            raise StorageCorrupt(f"The file of a large value is damaged: {self._path(name)}. Delete the key.")
        return None

    def remove(self, names: Iterable[str]) -> None:
        """Delete files. Some may already be deleted, and some may only be deleted later."""
        for name in names:
            # A file that cannot be removed now is an orphan, which maintenance removes later. Or the name is invalid.
            with suppress(OSError, StorageCorrupt):
                try:
                    os.unlink(self._path(name))
                except PermissionError:
                    self._in_use.add(name)

    def remove_again(self) -> None:
        """Delete the files that were in use when they were to be deleted."""
        names, self._in_use = self._in_use, set()
        self.remove(names)

    def written_before(self, time: float) -> Iterator[str]:
        """The names of files that were written before a time, in seconds since the epoch. Deletes leftovers."""
        with suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.stat().st_mtime >= time:
                        continue
                    if _NAME.fullmatch(entry.name):
                        yield entry.name
                    elif entry.name.endswith(_TEMPORARY):
                        os.unlink(entry)
                    elif entry.name.startswith(HELD):
                        shutil.rmtree(entry)

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise StorageCorrupt(
                f"A row is damaged: it names {name!r} as the file of its value, which is not a valid name."
            )
        return f"{self._directory}/{name}"


def _map_or_copy(path: str) -> mmap.mmap | bytearray:
    """The content of a file, which may be changed without changing the file: mapped, or copied if many files are."""
    with open(path, "rb") as file:
        if len(_maps) < MAX_MAPS:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            _maps.add(mapped)
            return mapped
        copy = bytearray(os.fstat(file.fileno()).st_size)
        file.readinto(copy)
        return copy


def _rename(temporary: str, path: str) -> None:
    try:
        os.replace(temporary, path)
    except PermissionError:
        if not os.path.exists(path):
            raise
        os.unlink(temporary)  # The existing file has the same content, because no name is used twice.


def _checksum_of_file(file: FileIO, nbytes: int) -> int:
    """The CRC-32 of what follows the header in the file."""
    if not nbytes:
        return zlib.crc32(b"")
    with mmap.mmap(file.fileno(), ALIGNMENT + nbytes, access=mmap.ACCESS_READ) as written, memoryview(written) as view:
        return zlib.crc32(view[ALIGNMENT:])


def sync_directory(directory: Path) -> None:
    if _DIRECTORY is None:
        return
    descriptor = os.open(directory, os.O_RDONLY | _DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
