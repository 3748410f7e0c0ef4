"""Power loss, as a model: what a process has asked the file system for, and what may be left of it.

:func:`record` runs a command under strace. :class:`Disk` takes the calls one by one, as a file system does, and
:meth:`Disk.lose_power` leaves what a crash at that point may leave. What it may leave is less than any real file
system does:

- Of a file, what was written before its last fsync is there. Of the writes and truncations since then each is there
  or not, for itself; a write may have come only so far as a whole sector, and the file's new length without the data.
- Of a directory, likewise: each creation, renaming and removal since its last fsync has happened or not, for itself.
  To sync a file does not sync its name.

SQLite's shared memory (-shm) means nothing after a crash, and the reserve holds no data, so both are left out.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECTOR = 512
LEFT_OUT = ("-shm", "-reserve")
TIMEOUT = 100

MODELLED = {"openat", "close", "lseek", "write", "pwrite64", "ftruncate", "fsync", "fdatasync"}
MODELLED |= {"rename", "unlink", "mkdir"}
SAME_AS = {"open": "openat", "renameat": "rename", "renameat2": "rename", "unlinkat": "unlink", "mkdirat": "mkdir"}
NOT_MODELLED = {"fallocate", "truncate", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile"}
NOT_MODELLED |= {"link", "linkat", "symlink", "symlinkat", "rmdir"}

_CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (\d+)")
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.*)|([^," ]+)')


class Call(NamedTuple):
    """A system call that succeeded: its texts and its other arguments, each in their order."""

    name: str
    texts: list[bytes]
    others: list[str]
    result: int


def record(command: Sequence[str], trace: Path) -> list[Call]:
    """The calls of a command, of those that change what is stored."""
    assert shutil.which("strace"), "strace is missing; on Debian: sudo apt-get install strace"
    names = ",".join(f"?{name}" for name in sorted(MODELLED | SAME_AS.keys() | NOT_MODELLED))
    strace = ["strace", "-f", "--seccomp-bpf", "-xx", "-s", "100000000", "-e", f"trace={names}", "-o", str(trace)]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"strace, or what it traced, has failed:\n{done.stderr}"
    with trace.open() as lines:
        return list(_calls(lines))


def _calls(lines: Iterator[str]) -> Iterator[Call]:
    for line in lines:
        assert "<unfinished" not in line, f"only one thread at a time is modelled: {line[:200]}"
        if call := _CALL.match(line):
            name, arguments, result = call.groups()
            texts, others = [], []
            for text, more, other in _ARGUMENT.findall(arguments):
                assert not more, f"strace has cut a text: {line[:200]}"
                others.append(other) if other else texts.append(bytes.fromhex(text.replace("\\x", "")))
            yield Call(name, texts, others, int(result))


class Chance:
    """What happens to be kept at one power loss: of the data, and of the names."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))
        self._data, self._names = (self._random.choice([0.0, 1.0, self._random.random()]) for _ in range(2))

    def keeps_data(self) -> bool:
        return self._random.random() < self._data

    def keeps_name(self) -> bool:
        return self._random.random() < self._names

    def keeps_length(self) -> bool:
        return self._random.random() < 0.5

    def sectors(self, data: bytes) -> bytes:
        """As much of the data as has come to the disk, which most often is all."""
        if self._random.random() < 0.8:
            return data
        return data[: self._random.randrange(0, len(data) + 1, SECTOR)]


class File:
    def __init__(self) -> None:
        self._synced = bytearray()
        self._since: list[tuple[int, bytes | None]] = []

    def write(self, offset: int, data: bytes) -> None:
        self._since.append((offset, data))

    def resize(self, size: int) -> None:
        self._since.append((size, None))

    def sync(self) -> None:
        for offset, data in self._since:
            _change(self._synced, offset, data)
        self._since = []

    def leave(self, path: Path, chance: Chance) -> None:
        content = bytearray(self._synced)
        for offset, data in self._since:
            if data is not None and chance.keeps_length():
                _change(content, max(len(content), offset + len(data)), None)
            if chance.keeps_data():
                _change(content, offset, data and chance.sectors(data))
        path.write_bytes(content)


def _change(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write data, or end the content at the offset. What lies between its end and the offset is zeros."""
    content.extend(bytes(max(0, offset - len(content))))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


class Directory:
    def __init__(self) -> None:
        self.entries: dict[str, Node] = {}
        self._synced: dict[str, Node] = {}
        self._since: list[dict[str, Node | None]] = []

    def change(self, names: dict[str, Node | None]) -> None:
        """Let names stand for these from now on, or for nothing, all at once."""
        _rename(self.entries, names)
        self._since.append(names)

    def sync(self) -> None:
        self._synced = dict(self.entries)
        self._since = []

    def leave(self, path: Path, chance: Chance) -> None:
        entries = dict(self._synced)
        for names in self._since:
            if chance.keeps_name():
                _rename(entries, names)
        path.mkdir(mode=0o700)
        for name, node in entries.items():
            node.leave(path / name, chance)


def _rename(entries: dict[str, Node], names: dict[str, Node | None]) -> None:
    for name, node in names.items():
        entries.pop(name, None)
        if node is not None:
            entries[name] = node


Node = File | Directory


class Opened:
    """What a file descriptor stands for."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.offset = 0


class Disk:
    """A file system below one folder, which is empty at first.

    :param root: the folder, as the calls name it
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tree = Directory()
        self._opened: dict[int, Opened] = {}

    def leave(self, folder: Path, chance: Chance) -> None:
        """Make a folder as it may be found when the power goes now."""
        self._tree.leave(folder, chance)

    def take(self, call: Call) -> None:
        name = SAME_AS.get(call.name, call.name)
        if call.texts and name not in ("write", "pwrite64"):
            paths = [Path(text.decode()) for text in call.texts]
            if all(self._is_modelled(path) for path in paths):
                assert name in MODELLED, f"{call.name} is not modelled"
                getattr(self, f"_{name}")(*paths, call)
        elif (opened := self._opened.get(int(call.others[0]))) is not None:
            assert name in MODELLED, f"{call.name} is not modelled"
            getattr(self, f"_{name}")(opened, call)

    def _is_modelled(self, path: Path) -> bool:
        return path.is_relative_to(self._root) and not path.name.endswith(LEFT_OUT)

    def _node(self, path: Path) -> Any:
        node: Any = self._tree
        for name in path.relative_to(self._root).parts:
            node = node.entries.get(name)
        return node

    # Calls with a path

    def _openat(self, path: Path, call: Call) -> None:
        node = self._node(path)
        flags = call.others[1] if call.others[0].startswith("AT_") else call.others[0]
        if node is None:
            node = File()
            self._node(path.parent).change({path.name: node})
        elif "O_TRUNC" in flags:
            node.resize(0)
        assert "O_APPEND" not in flags
        self._opened[call.result] = Opened(node)

    def _rename(self, old: Path, new: Path, call: Call) -> None:
        assert old.parent == new.parent
        self._node(old.parent).change({old.name: None, new.name: self._node(old)})

    def _unlink(self, path: Path, call: Call) -> None:
        self._node(path.parent).change({path.name: None})

    def _mkdir(self, path: Path, call: Call) -> None:
        self._node(path.parent).change({path.name: Directory()})

    # Calls with a descriptor

    def _close(self, opened: Opened, call: Call) -> None:
        del self._opened[int(call.others[0])]

    def _lseek(self, opened: Opened, call: Call) -> None:
        opened.offset = call.result

    def _write(self, opened: Opened, call: Call) -> None:
        opened.node.write(opened.offset, call.texts[0][: call.result])
        opened.offset += call.result

    def _pwrite64(self, opened: Opened, call: Call) -> None:
        opened.node.write(int(call.others[-1]), call.texts[0][: call.result])

    def _ftruncate(self, opened: Opened, call: Call) -> None:
        opened.node.resize(int(call.others[1]))

    def _fsync(self, opened: Opened, call: Call) -> None:
        opened.node.sync()

    _fdatasync = _fsync
