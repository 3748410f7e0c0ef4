"""Refuses file systems on which SQLite's WAL mode loses data: the files must be on a local disk.

WAL mode needs shared memory and locks that all processes see. Network file systems have neither between hosts, and some
not even on one host (https://www.sqlite.org/wal.html, https://www.sqlite.org/howtocorrupt.html, section 2.1). The same
holds for folders that Docker Desktop and virtual machines share with their host: databases there are corrupt within
minutes. Nothing fails at first, so the check comes before anything is stored.
"""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from ...errors import UnsuitableFilesystem
from .system import windows_kernel

_NETWORK = "afs afp beegfs ceph cifs coda davfs glusterfs gpfs lustre ncpfs nfs nfs3 nfs4 orangefs smb smb2 smb3 smbfs"
_MOUNTED_BY_PROGRAMS = (
    "fuse.blobfuse fuse.blobfuse2 fuse.cephfs fuse.davfs fuse.gcsfuse fuse.glusterfs fuse.goofys fuse.juicefs "
    "fuse.mountpoint-s3 fuse.rclone fuse.s3fs fuse.seaweedfs fuse.sshfs"
)
_SHARED_WITH_HOST = (
    "9p drvfs fakeowner fuse.fakeowner fuse.grpcfuse fuse.osxfs fuse.vmhgfs-fuse fuse.virtiofs grpcfuse osxfs prl_fs "
    "prl_fs_lite vboxsf virtiofs vmhgfs"
)
SHARED_WITH_HOST = frozenset(_SHARED_WITH_HOST.split())
UNSUITABLE = frozenset([*_NETWORK.split(), *_MOUNTED_BY_PROGRAMS.split()]) | SHARED_WITH_HOST

_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")

# https://learn.microsoft.com/windows/win32/api/fileapi/nf-fileapi-getdrivetypew
_DRIVE_REMOTE = 4
# \\server\share, but not the long form of a path on a drive, \\?\C:\folder.
_SHARE = re.compile(r"\\\\(?![?.]\\[A-Za-z]:)")


def check_filesystem(path: str) -> None:
    """Check the file system of a file.

    :raises UnsuitableFilesystem: if it is a network file system, or a folder that a host shares with a guest. An
        unknown file system is accepted.
    """
    if (kernel := windows_kernel()) is not None:
        root = PureWindowsPath(path).anchor
        if _SHARE.match(root) or kernel.GetDriveTypeW(root) == _DRIVE_REMOTE:
            raise UnsuitableFilesystem(advice(path, "it is a network drive"))
        return
    try:
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return
    kind = filesystem_of(path, mounts)
    if kind in SHARED_WITH_HOST:
        raise UnsuitableFilesystem(
            f"{advice(path, f'it is {kind}, a folder shared with the host')} In Docker Desktop, use a named volume: "
            "docker run --volume user_store:/data, and USER_STORE_URL = 'sqlite:////data/user_store.sqlite'."
        )
    if kind in UNSUITABLE:
        raise UnsuitableFilesystem(advice(path, f"it is {kind}"))


def advice(path: str, reason: str) -> str:
    return (
        f"The storage file {path} is on a file system that does not support SQLite's WAL mode: {reason}. Put it on a "
        "local disk (USER_STORE_URL, url=). To share a store between hosts, use Redis or PostgreSQL."
    )


def filesystem_of(path: str, mounts: str) -> str | None:
    """The type of the file system of an absolute path; None if not known.

    :param mounts: Linux's list of mounts (proc(5), "/proc/pid/mountinfo")
    """
    kind, longest = None, -1
    for line in mounts.splitlines():
        fields, _, source = line.partition(" - ")
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields.split()[4])
        is_below = path == point or path.startswith(point.rstrip("/") + "/")
        if is_below and len(point) >= longest:  # The later of two mounts on one point hides the other.
            kind, longest = source.split()[0], len(point)
    return kind
