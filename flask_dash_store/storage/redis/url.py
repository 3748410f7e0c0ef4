"""The URLs of the Redis storage: the server, how to connect to it, and the prefix of its keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from ...errors import ConfigurationError

try:
    from redis import Redis
    from redis import exceptions as exceptions
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.connection import Connection, SSLConnection, parse_url
    from redis.retry import Retry
    from redis.sentinel import MasterNotFoundError as MasterNotFoundError
    from redis.sentinel import Sentinel
except ImportError as error:
    raise ConfigurationError(
        "USER_STORE_URL (url=) names a Redis or Valkey server, which needs the package redis. Install it: "
        "pip install 'flask_dash_store[redis]'."
    ) from error

Client = Any  # redis-py's types do not say what a command returns.

DEFAULT_PREFIX = "user_store:"
DEFAULT_MAX_CONNECTIONS = 64
# Braces would change the hash tag, which keeps an owner's keys in one slot. The others are special in SCAN's patterns.
_PREFIX = re.compile(r"[^{}*?\[\]\\^\s]+")
# Other options of redis-py, such as decode_responses or socket_timeout, would break what the package relies on.
_OPTION = re.compile(
    "max_connections|db|username|password|sentinel_username|sentinel_password|client_name|health_check_interval|ssl_.+"
)
_FORMS = (
    "redis://host:6379/0, rediss:// for TLS, unix:///path/to/socket, redis+sentinel://host:26379,host:26379/service/0 "
    "or redis+cluster://host:6379,host:6379, each with user:password@ before the host, ?prefix=name and "
    "?max_connections=number after it, and valkey for redis. Special characters in a password are percent-encoded"
)


class _Wrong(ValueError):
    """What is wrong with a URL, without quoting it. Messages of other errors may contain a password."""


class Target(NamedTuple):
    """A server.

    :ivar max_connections: how many connections a process may have, to each server of a cluster
    :ivar connect: creates a client, which connects on first use
    """

    name: str
    prefix: str
    is_cluster: bool
    max_connections: int
    connect: Callable[[], Client]


def parse(url: str, prefix: str, timeout: float) -> Target:
    """Parse a URL.

    :param prefix: the prefix of keys, if the URL has none
    :param timeout: seconds within which a server must answer
    :raises ConfigurationError: if the URL has none of the documented forms
    """
    try:
        parts = urlsplit(re.sub("^valkey", "redis", url, count=1))
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        prefix = query.pop("prefix", prefix)
        if not _PREFIX.fullmatch(prefix):
            raise _Wrong("its prefix is empty, or contains a space or one of {}*?[]\\^")
        max_connections = int(query.setdefault("max_connections", str(DEFAULT_MAX_CONNECTIONS)))
        if max_connections < 1:
            raise _Wrong("its max_connections is less than 1")
        if not all(map(_OPTION.fullmatch, query)):
            raise _Wrong(
                "it has an option that is none of prefix, max_connections, db, username, password, sentinel_username, "
                "sentinel_password, client_name, health_check_interval and ssl_…"
            )
        scheme, _, way = parts.scheme.partition("+")
        make = _WAYS[way, scheme]
        name, connect = make(parts._replace(scheme=scheme, query=urlencode(query)), timeout)
    except (ValueError, KeyError, TypeError) as error:
        reason = f" ({error})" if isinstance(error, _Wrong | TypeError) else ""
        raise ConfigurationError(
            f"USER_STORE_URL (url=), which begins with {url.partition(':')[0]}:, is not the URL of a Redis or Valkey "
            f"server{reason}. It can be {_FORMS}."
        ) from None  # The URL may contain a password.
    return Target(name, prefix, way == "cluster", max_connections, connect)


_KEEPALIVE = {"socket_keepalive": True}
_Made = tuple[str, Callable[[], Client]]


def _single(parts: SplitResult, timeout: float) -> _Made:
    _database(parts.path.strip("/"))
    options = _options(parts.geturl())
    name = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
    return name, _connector(parts.geturl(), _bounded(timeout) | _KEEPALIVE)


def _socket(parts: SplitResult, timeout: float) -> _Made:
    url = f"unix://{parts.netloc}{parts.path}?{parts.query}"
    options = _options(url)
    return f"{options['path']}/{options.get('db', 0)}", _connector(url, _bounded(timeout))


def _connector(url: str, options: dict[str, Any]) -> Callable[[], Client]:
    def connect() -> Client:
        return Redis.from_url(url, **options)

    connect().connection_pool.make_connection()  # Checks the options, without connecting.
    return connect


def _by_sentinels(parts: SplitResult, timeout: float) -> _Made:
    service, _, db = parts.path.strip("/").partition("/")
    hosts, options = _hosts_and_options(parts, db, 26379)
    if not service:
        raise _Wrong("it names no service")
    credentials = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    # All sentinels together have the time for one answer.
    sentinel_options = _bounded(timeout / len(hosts)) | {k: v for k, v in credentials.items() if v is not None}
    sentinel_options |= {name: value for name, value in options.items() if name.startswith("ssl")}
    _check(options)

    def connect() -> Client:
        bounded = _bounded(timeout) | _KEEPALIVE | options
        sentinel = Sentinel(hosts, sentinel_kwargs=sentinel_options, **bounded)  # type: ignore[no-untyped-call]
        return sentinel.master_for(service)  # type: ignore[no-untyped-call]

    return f"{service} of {_listed(hosts)}", connect


def _cluster(parts: SplitResult, timeout: float) -> _Made:
    hosts, options = _hosts_and_options(parts, parts.path.strip("/"), 6379)
    if options.pop("db", 0):
        raise _Wrong("a cluster has no databases")
    _check(options)
    # All nodes together have the time for one answer.
    bounded = _bounded(timeout) | _KEEPALIVE | options | {"socket_connect_timeout": timeout / len(hosts)}

    def connect() -> Client:
        nodes = [ClusterNode(host, port) for host, port in hosts]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes, **bounded)

    return f"cluster of {_listed(hosts)}", connect


def _bounded(timeout: float) -> dict[str, Any]:
    """Options with which no call waits longer, and redis-py retries nothing: it cannot know what is safe to repeat."""
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _hosts_and_options(parts: SplitResult, db: str, default_port: int) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    credentials, at, addresses = parts.netloc.rpartition("@")
    hosts = []
    for address in addresses.split(","):
        one = urlsplit(f"//{address}")
        if not one.hostname:
            raise _Wrong("it names no host")
        hosts.append((one.hostname, one.port or default_port))
    options = _options(f"{parts.scheme}://{credentials}{at}host/{_database(db)}?{parts.query}")
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    del options["host"]
    return hosts, options


def _check(options: dict[str, Any]) -> None:
    """Check options by creating a connection, without connecting.

    :raises TypeError: if there is an unknown option
    """
    own = {name: value for name, value in options.items() if name not in ("ssl", "max_connections")}
    (SSLConnection if "ssl" in options else Connection)(**own)


def _database(text: str) -> int:
    """The number of a database. redis-py would replace invalid text by 0."""
    return int(text or 0)


def _options(url: str) -> dict[str, Any]:
    return dict(parse_url(url))  # type: ignore[no-untyped-call]


def _listed(hosts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in hosts)


_WAYS = {
    ("", "redis"): _single,
    ("", "rediss"): _single,
    ("", "unix"): _socket,
    ("unix", "redis"): _socket,
    ("sentinel", "redis"): _by_sentinels,
    ("sentinel", "rediss"): _by_sentinels,
    ("cluster", "redis"): _cluster,
    ("cluster", "rediss"): _cluster,
}
