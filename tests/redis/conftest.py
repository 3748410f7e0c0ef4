"""A Redis server that the tests here share, and what they ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from backends import TTL
from clocks import HandClock
from servers_redis import RedisServer, open_redis, short_folder

from flask_dash_store.expiry import Access, ExpiryPolicy
from flask_dash_store.storage.redis import RedisStorage


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with short_folder() as folder, RedisServer(folder) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A server of these tests alone, which keeps nothing from one test to the next."""
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@pytest.fixture
def storage(server: RedisServer) -> Iterator[RedisStorage]:
    storage = open_redis(server.url)
    yield storage
    storage.close()


@pytest.fixture
def now(clock: HandClock) -> Callable[..., Access]:
    return ExpiryPolicy(TTL, clock).access
