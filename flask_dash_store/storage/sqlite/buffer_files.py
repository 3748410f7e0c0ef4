"""Where the buffers of large values lie: files beside the database, mapped when they are read.

A file is written whole under a temporary name and renamed, before the row that names it is committed; it is unlinked
after the commit that has replaced or deleted the row. A file is never changed. So a reader that finds no file has
lost a race and reads its row again, and a file that no row names is an orphan of a crash. Windows neither unlinks nor
replaces a file that is open or mapped: there it is unlinked later, by maintenance.

A file is not synced, unless what is acknowledged has to survive a power loss. Whether it is whole after one is seen
from the checksum in its header, which is looked at once after each start of the machine.
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
"""How the name of the directory begins in which a running backup keeps buffers."""
# Python keeps a file open for as long as it is mapped, and a process may have 1024 open, its sockets among them.
MAX_MAPS = 256
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR
# Windows has no descriptors of directories; NTFS logs what a directory holds.
_DIRECTORY = getattr(os, "O_DIRECTORY", None)


def buffers_beside(database: str | Path) -> Path:
    """The directory of the buffers whose rows are in a database file."""
    return Path(f"{database}.buffers")


def copy_file(source: Path, target: Path) -> None:
    """Copy the file of one value's buffers. Once the target's name exists, the file is whole and synced."""
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
    """Buffers in the files of a directory, for all processes.

    :param sync: whether buffers have to survive a power loss as soon as they are written
    """

    def __init__(self, directory: Path, sync: bool) -> None:
        self._directory = directory
        self._sync = sync
        self._in_use: set[str] = set()
        """Those that could not be unlinked, for some process has them mapped."""

    def write(self, buffers: Buffers) -> None:
        """Keep buffers.

        :raises StorageError: when they cannot be kept; then nothing of them is
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
                raise  # A signal's handler has raised it, a TimeoutError say.
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
                # Of what was written: an array may have been changed by another thread since it was to be stored.
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
        """The buffers, in one piece that the caller may change without changing what is kept.

        :param may_be_torn: whether a power loss may have torn them, so that their checksum is verified
        :returns: None when there are none of this name, or when they are torn
        :raises StorageCorrupt: when they are damaged and cannot have been torn
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
        """Delete buffers, of which some may have gone already, or go later."""
        for name in names:
            # What cannot be removed now is an orphan, which is removed later, or was never a file's name.
            with suppress(OSError, StorageCorrupt):
                try:
                    os.unlink(self._path(name))
                except PermissionError:
                    self._in_use.add(name)

    def remove_again(self) -> None:
        """Delete those that were in use when they were to be deleted."""
        names, self._in_use = self._in_use, set()
        self.remove(names)

    def written_before(self, time: float) -> Iterator[str]:
        """The names of the buffers that were written before a time, in seconds since the epoch."""
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
            raise StorageCorrupt(f"A row names {name!r} as the file of its value, which cannot be one.")
        return f"{self._directory}/{name}"


def _map_or_copy(path: str) -> mmap.mmap | bytearray:
    """What a file holds, which may be changed without changing the file: mapped, or a copy when many files are."""
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
        os.unlink(temporary)  # A file of this name that is in use holds the same, for no name is used twice.


def _checksum_of_file(file: FileIO, nbytes: int) -> int:
    """The CRC-32 of what follows the header."""
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
