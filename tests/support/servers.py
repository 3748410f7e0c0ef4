"""Real servers on a free port of 127.0.0.1, which answer when a test gets them and are gone when it ends.

Where a port is wanted it may also be the path of a Unix socket, which is reached from other networks too.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

START_TIMEOUT = 60
STOP_TIMEOUT = 20
WARM_WORKERS = Path(__file__).with_name("warm_workers.py")

# Where there is setpriv (Linux), a server ends with the tests even when these are killed and can clean up nothing.
END_WITH_PARENT = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


class Port:
    """A port that no one else is given. Servers may come and go on it until it is closed."""

    def __init__(self) -> None:
        # It is bound but never listens: the system lets a server that sets SO_REUSEADDR bind it too, and no one else.
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


class _UnixConnection(HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def connection_to(port: int | Path, timeout: float) -> HTTPConnection:
    return (
        HTTPConnection("127.0.0.1", port, timeout) if isinstance(port, int) else _UnixConnection(str(port), 80, timeout)
    )


class Server:
    """A running server: its command, and what it has printed."""

    def __init__(self, command: Sequence[str], port: int | Path, folder: Path, environ: Mapping[str, str]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log_file = folder / f"server-{time.monotonic_ns()}.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*END_WITH_PARENT, *command],
                cwd=folder,
                env=_clean_environ() | environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)
                raise AssertionError(f"The server has ended with {self.process.returncode}:\n{self.log}")
            assert time.monotonic() < deadline, f"The server does not answer:\n{self.log}"

    def _answers(self) -> bool:
        with closing(connection_to(self.port, START_TIMEOUT)) as connection:
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, HTTPException):
                return False
        return True

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the server and all its processes, whatever state they are in."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, with_signal) if with_signal == signal.SIGKILL else self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT)


def _clean_environ() -> dict[str, str]:
    meaningful = ("FLASK_", "DASH_", "GUNICORN_", "WERKZEUG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(meaningful)}
    return kept | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def running(
    command: Sequence[str], port: int | Path, folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server that answers. When the block ends it is stopped, and must have logged no traceback."""
    server = Server(command, port, folder, environ or {})
    try:
        server.wait_until_it_answers()
        yield server
    except Exception as error:
        error.add_note(f"The server's log:\n{server.log}")
        raise
    finally:
        server.stop()
    assert "Traceback" not in server.log, server.log


def uvicorn(target: str, port: int | Path, source: Path, *options: str) -> list[str]:
    """The command for ``target``, a module in the folder ``source`` and a function in it that makes the app, with 2
    workers."""
    return [
        *(sys.executable, "-m", "uvicorn", "--factory", "--app-dir", str(source), "--log-level", "warning"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "2"),
        *options,
        target,
    ]


# Options of gunicorn for a server whose workers fork jobs, as Dash's DiskcacheManager.call_job_fn does, while browsers
# are connected. A job holds the worker's connections open: when the worker closes an idle one meanwhile, the browser
# does not notice, and its next request on it stays unread until the job ends.
FOR_FORKED_JOBS = ("--keep-alive", "300")


def gunicorn(target: str, port: int | Path, source: Path, *options: str) -> list[str]:
    """The command for ``target``, a module in the folder ``source`` and a name in it, with 2 workers x 4 threads."""
    address = f"127.0.0.1:{port}" if isinstance(port, int) else f"unix:{port}"
    return [
        *(sys.executable, "-m", "gunicorn", "--no-control-socket", "--config", str(WARM_WORKERS)),
        *("--chdir", str(source)),
        *("--bind", address, "--workers", "2", "--threads", "4", "--keep-alive", "1"),
        *options,
        target,
    ]


@contextmanager
def job_worker(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """A worker process of a queue, which is ended by SIGTERM. A test that fails shows what it has printed."""
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [*END_WITH_PARENT, *command], cwd=folder, env=os.environ | environ, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        finally:
            process.kill()
            process.wait()
            sys.stdout.write((folder / "worker.log").read_text())
