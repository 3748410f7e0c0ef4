"""A file system that SQLite's WAL mode cannot be used on is refused before anything is stored there.

Promises: docs/reliability.md, "Where it runs". WAL needs memory that all processes share, which a network file system
does not give: https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from backends import Child

from flask_dash_store import DashDatabase, UnsuitableFilesystem
from flask_dash_store.storage.sqlite import filesystem
from flask_dash_store.storage.sqlite.filesystem import UNSUITABLE, filesystem_of


def mount(point: str, kind: str, root: str = "/", fields: str = "shared:1") -> str:
    """A line of /proc/self/mountinfo."""
    return f"36 35 98:0 {root} {point} rw,noatime {fields} - {kind} source rw,errors=continue"


ROOT = mount("/", "ext4")


@pytest.mark.parametrize(
    ("path", "mounts", "kind"),
    [
        ("/a/store.sqlite", [ROOT], "ext4"),
        ("/a/b/store.sqlite", [ROOT, mount("/a", "nfs4"), mount("/a/b", "xfs")], "xfs"),
        ("/a/b/store.sqlite", [ROOT, mount("/a/b", "xfs"), mount("/a", "nfs4")], "xfs"),
        ("/a/store.sqlite", [ROOT, mount("/a", "nfs4"), mount("/a", "xfs")], "xfs"),
        ("/ab/store.sqlite", [ROOT, mount("/a", "nfs4")], "ext4"),
        ("/a", [ROOT, mount("/a", "nfs4")], "nfs4"),
        ("/a b\\c/store.sqlite", [ROOT, mount(r"/a\040b\134c", "nfs4")], "nfs4"),
        ("/bound/store.sqlite", [ROOT, mount("/bound", "nfs4", root="/exported/folder")], "nfs4"),
        ("/a/store.sqlite", [ROOT, mount("/a", "nfs4", fields="")], "nfs4"),
        ("/a/store.sqlite", [ROOT, mount("/a", "nfs4", fields="shared:1 master:2")], "nfs4"),
        ("/a/store.sqlite", [], None),
    ],
    ids=[
        "the root",
        "the longest prefix",
        "in any order",
        "the later covers",
        "whole names",
        "the point itself",
        "octal escapes",
        "a bind mount",
        "no optional field",
        "two optional fields",
        "unknown",
    ],
)
def test_the_mount_that_a_path_lies_on_is_found(path: str, mounts: list[str], kind: str | None) -> None:
    assert filesystem_of(path, "\n".join(mounts)) == kind


@pytest.fixture
def mount_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the system say that the test's folder is a mount of this type."""

    def mount_at(kind: str) -> None:
        mounts = tmp_path / "mountinfo"
        mounts.write_text("\n".join([ROOT, mount(str(tmp_path), kind)]))
        monkeypatch.setattr(filesystem, "_MOUNTS", mounts)

    return mount_at


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_store_on_a_network_file_system_is_refused_with_what_to_use_instead(
    tmp_path: Path, mount_at: Callable[[str], None], kind: str
) -> None:
    mount_at(kind)
    with pytest.raises(UnsuitableFilesystem, match=rf"{kind}.*local disk.*USER_STORE_URL.*Redis or PostgreSQL"):
        DashDatabase(tmp_path / "store.sqlite")
    assert (tmp_path / "store.sqlite").read_bytes() == b""


SHARED_FOLDERS = [
    "virtiofs",
    "fuse.virtiofs",
    "9p",
    "fuse.grpcfuse",
    "grpcfuse",
    "fuse.osxfs",
    "osxfs",
    "fakeowner",
    "fuse.fakeowner",
    "vboxsf",
    "vmhgfs",
    "fuse.vmhgfs-fuse",
    "prl_fs",
    "prl_fs_lite",
    "drvfs",
]
OBJECT_STORES = ["fuse.s3fs", "fuse.mountpoint-s3", "fuse.gcsfuse", "fuse.blobfuse2", "fuse.rclone", "fuse.goofys"]


@pytest.mark.parametrize("kind", SHARED_FOLDERS)
def test_a_folder_shared_with_the_host_is_refused_with_what_to_do_in_docker_desktop(
    tmp_path: Path, mount_at: Callable[[str], None], kind: str
) -> None:
    """SQLite's databases there are malformed within minutes, and nothing fails before: public reports are many."""
    mount_at(kind)
    with pytest.raises(UnsuitableFilesystem, match=rf"it is {kind}, .*host.*Docker Desktop.*named volume"):
        DashDatabase(tmp_path / "store.sqlite")
    assert (tmp_path / "store.sqlite").read_bytes() == b""


@pytest.mark.parametrize("kind", OBJECT_STORES)
def test_a_mounted_object_store_is_refused(tmp_path: Path, mount_at: Callable[[str], None], kind: str) -> None:
    mount_at(kind)
    with pytest.raises(UnsuitableFilesystem, match=kind):
        DashDatabase(tmp_path / "store.sqlite")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", "bcachefs", "f2fs"])
def test_local_file_systems_are_accepted(kind: str) -> None:
    assert kind not in UNSUITABLE


def open_without_shared_memory(database: Path) -> None:
    apsw.set_default_vfs("unix-dotfile")
    DashDatabase(database)


def test_where_sqlite_cannot_share_memory_a_store_is_refused_too(tmp_path: Path) -> None:
    outcome = Child("spawn", open_without_shared_memory, tmp_path / "store.sqlite").outcome()
    assert isinstance(outcome, UnsuitableFilesystem)
    assert "USER_STORE_URL" in str(outcome)
