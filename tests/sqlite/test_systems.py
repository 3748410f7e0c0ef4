"""What the storage asks of the system, on systems that are not here: their answers are put in.

Promises: docs/platforms.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import count
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest
from backends import large, owner, read

from flask_dash_store import ConfigurationError, UnsuitableFilesystem
from flask_dash_store.expiry import Access
from flask_dash_store.storage import StorageOptions
from flask_dash_store.storage.sqlite import SqliteStorage, buffer_files, filesystem, open_url, system
from flask_dash_store.storage.sqlite.filesystem import check_filesystem
from flask_dash_store.storage.sqlite.system import boot_id

NOW = Access(1000, 2000, 0)
ANN = owner("u.ann")


# When the machine was started


@pytest.fixture
def no_boot_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has not what Linux has."""
    monkeypatch.setattr(system, "_BOOT_ID", tmp_path / "missing")


def sysctl_of(values: dict[bytes, bytes]) -> Callable[..., int]:
    """``sysctlbyname`` of a system that knows these names (https://man.freebsd.org/cgi/man.cgi?sysctlbyname(3))."""

    def sysctlbyname(name: bytes, value: Any, size: Any, new: None, new_size: Any) -> int:
        known, length = values.get(name), ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t)).contents
        if known is None or len(known) > length.value:
            return -1
        ctypes.memmove(value, known, len(known))
        length.value = len(known)
        return 0

    return sysctlbyname


@pytest.fixture
def has_sysctl(monkeypatch: pytest.MonkeyPatch, no_boot_id: None) -> Callable[[dict[bytes, bytes]], None]:
    def has_sysctl(values: dict[bytes, bytes]) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(sysctlbyname=sysctl_of(values)))

    return has_sysctl


@pytest.mark.parametrize("name", [b"kern.bootsessionuuid", b"kern.boottime"])
def test_where_sysctl_tells_it_all_processes_name_a_boot_alike_and_no_two_boots(
    has_sysctl: Callable[[dict[bytes, bytes]], None], name: bytes
) -> None:
    names = []
    for boot in (b"\1" * 16, b"\1" * 16, b"\2" * 16):
        has_sysctl({name: boot})
        names.append(boot_id())
    assert names[0] == names[1] != names[2]


def test_macos_names_a_boot_though_its_clock_is_set(has_sysctl: Callable[[dict[bytes, bytes]], None]) -> None:
    names = set()
    for seconds in (b"\1", b"\2"):
        has_sysctl({b"kern.bootsessionuuid": b"6A3C", b"kern.boottime": seconds * 16})
        names.add(boot_id())
    assert len(names) == 1


def test_windows_names_a_boot_by_its_ticks(monkeypatch: pytest.MonkeyPatch, no_boot_id: None) -> None:
    names = []
    for now, milliseconds in ((5000.0, 1_000_000), (5600.0, 1_600_000), (5600.0, 20_000)):
        kernel = SimpleNamespace(GetTickCount64=lambda ticks=milliseconds: ticks)
        monkeypatch.setattr(system, "windows_kernel", lambda kernel=kernel: kernel)
        monkeypatch.setattr(system.time, "time", lambda now=now: now)
        names.append(boot_id())
    assert names[0] == names[1] != names[2]


def test_where_no_source_tells_it_each_process_has_a_name_of_its_own(
    has_sysctl: Callable[[dict[bytes, bytes]], None],
) -> None:
    has_sysctl({})
    assert boot_id() != boot_id()


@pytest.fixture
def checksums(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were looked at, each time."""
    looked_at: list[int] = []

    def crc32(data: Any) -> int:
        looked_at.append(len(data))
        return real(data)

    real = buffer_files.zlib.crc32
    monkeypatch.setattr(buffer_files, "zlib", SimpleNamespace(crc32=crc32))
    return looked_at


def test_where_a_boot_has_no_name_each_process_looks_at_a_large_value_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksums: list[int]
) -> None:
    numbers = count()
    monkeypatch.setattr("flask_dash_store.storage.sqlite.storage.boot_id", lambda: f"process {next(numbers)}")
    processes = [SqliteStorage(tmp_path / "values.sqlite") for _ in range(3)]
    processes[0].set(ANN, "k", large(b"v"), NOW)
    checksums.clear()
    for _ in range(4):
        for each in processes:
            assert read(each.get(ANN, "k", NOW)) == b"v"
            assert each.keys(ANN, NOW) == ["k"]
    assert len(checksums) <= len(processes)
    for each in processes:
        each.close()


# Where the file lies


@pytest.mark.parametrize(
    ("path", "is_refused"),
    [
        ("C:\\apps\\store.sqlite", False),
        ("Z:\\apps\\store.sqlite", True),
        ("\\\\server\\share\\store.sqlite", True),
        ("\\\\wsl.localhost\\Debian\\home\\store.sqlite", True),
        ("\\\\?\\UNC\\server\\share\\store.sqlite", True),
        ("\\\\?\\C:\\apps\\store.sqlite", False),
        ("\\\\?\\Z:\\apps\\store.sqlite", True),
    ],
)
def test_network_drives_and_shares_are_refused_on_windows(
    monkeypatch: pytest.MonkeyPatch, path: str, is_refused: bool
) -> None:
    def type_of(root: str) -> int:
        assert root.endswith("\\")
        return 4 if "Z:" in root else 3

    monkeypatch.setattr(filesystem, "windows_kernel", lambda: SimpleNamespace(GetDriveTypeW=type_of))
    if is_refused:
        with pytest.raises(UnsuitableFilesystem, match=r"network drive.*local disk.*Redis or PostgreSQL"):
            check_filesystem(path)
    else:
        check_filesystem(path)


class WindowsPath(PureWindowsPath):
    """As Windows joins paths, where there are no files."""

    def exists(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///shop.sqlite", "C:\\app\\instance\\shop.sqlite"),
        ("sqlite:///data/shop.sqlite", "C:\\app\\instance\\data\\shop.sqlite"),
        ("sqlite:///D:/data/shop.sqlite", "D:\\data\\shop.sqlite"),
        ("sqlite:///D:\\data\\shop.sqlite", "D:\\data\\shop.sqlite"),
        ("sqlite:////data/shop.sqlite", "C:\\data\\shop.sqlite"),
        ("sqlite://///server/share/shop.sqlite", "\\\\server\\share\\shop.sqlite"),
    ],
)
def test_a_url_may_name_a_drive_on_windows(monkeypatch: pytest.MonkeyPatch, url: str, file: str) -> None:
    named: list[object] = []
    monkeypatch.setattr("flask_dash_store.storage.sqlite.SqliteStorage", lambda path, **_: named.append(path))
    open_url(url, StorageOptions(WindowsPath("C:\\app\\instance")))  # type: ignore[arg-type]
    assert named == [PureWindowsPath(file)]


def test_the_error_of_a_url_without_a_path_names_the_form_for_a_drive() -> None:
    with pytest.raises(ConfigurationError, match="sqlite:///C:/path"):
        open_url("sqlite://C:/path", StorageOptions(Path("/")))
