"""Faults that a test begins and ends while a server runs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from servers import Server

DISK_BYTES = 16 * 2**20

_MAY_OVERRIDE_MODES = 1 << 1  # CAP_DAC_OVERRIDE, capabilities(7)
_MOUNT = f'mount -t tmpfs -o size={DISK_BYTES},mode=700 tmpfs "$0" && exec "$@"'
_HOLD_THE_WRITE_LOCK = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def _namespace() -> list[str]:
    """What begins a command that may mount what no one else sees: for root, or for any user; empty if neither may."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            trial = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
            if subprocess.run(trial, capture_output=True, timeout=60).returncode == 0:
                return command
        except FileNotFoundError:
            return []
    return []


def workers_of(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Disk(ABC):
    """Where a server has its files, until it is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir(mode=0o700)

    def command(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def seen_by(self, server: Server) -> Path:
        """The folder, as this process reaches it."""
        return self.folder

    @abstractmethod
    def full(self, server: Server) -> AbstractContextManager[None]:
        """A block in which nothing more can be written."""


class SmallDisk(Disk):
    """A file system of 16 MiB, which is filled to the last byte."""

    namespace = _namespace()

    def command(self, command: Sequence[str]) -> list[str]:
        return [*self.namespace, "sh", "-c", _MOUNT, str(self.folder), *command]

    def seen_by(self, server: Server) -> Path:
        return Path(f"/proc/{server.process.pid}/root{self.folder}")

    @contextmanager
    def full(self, server: Server) -> Iterator[None]:
        filler = self.seen_by(server) / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                for nbytes in (2**16, 1):
                    while True:
                        try:
                            file.write(bytes(nbytes))
                        except OSError:
                            break
                yield
            finally:
                filler.unlink()


class SizeLimit(Disk):
    """No file may grow larger than the database and its WAL are. It needs no rights, as the small disk does."""

    @contextmanager
    def full(self, server: Server) -> Iterator[None]:
        before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        files = [path for path in self.folder.glob("store.sqlite*") if path.is_file() and "reserve" not in path.name]
        try:
            self._limit(server, (max(path.stat().st_size for path in files), before[1]))
            yield
        finally:
            self._limit(server, before)

    @staticmethod
    def _limit(server: Server, limit: tuple[int, int]) -> None:
        for pid in (server.process.pid, *workers_of(server)):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


DISKS: list[type[Disk]] = [SmallDisk, SizeLimit] if SmallDisk.namespace else [SizeLimit]


@contextmanager
def closed(*directories: Path) -> Iterator[None]:
    """Keep all from making files in the directories."""
    modes = {directory: directory.stat().st_mode & 0o777 for directory in directories}
    for directory in directories:
        directory.chmod(0o500)
    try:
        yield
    finally:
        for directory, mode in modes.items():
            directory.chmod(mode)


def bound_by_modes(command: Sequence[str]) -> list[str]:
    """The command, for which the modes of files count even where root runs it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if not int(status["CapEff"], 16) & _MAY_OVERRIDE_MODES:
        return list(command)
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]


def fork_and_exit() -> None:
    """Fork a process that does nothing. For that the storages of this one close their connections."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of forking beside threads, which is what is tested.
        child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@contextmanager
def write_lock_held(database: Path) -> Iterator[None]:
    """Another process writes to the database, and does not finish."""
    command = [sys.executable, "-c", _HOLD_THE_WRITE_LOCK, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield
        finally:
            holder.communicate(timeout=60)
