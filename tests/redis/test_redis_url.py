"""What a URL of the Redis storage can say, and what happens when it cannot be used."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from urllib.parse import urlencode

import pytest
import redis
from backends import owner, small
from servers import Port
from servers_redis import RedisServer, open_redis

from flask_dash_store.errors import ConfigurationError, StorageError
from flask_dash_store.storage.redis.url import parse

ANN = owner("s.ann")


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:x",
        "redis://127.0.0.1/0?nonsense=1",
        "redis://127.0.0.1?prefix=a{b}",
        "unix://",
        "redis+sentinel://127.0.0.1:1",
        "redis+sentinel:///service",
        "redis+cluster://127.0.0.1:1/5",
        "redis+sentinel://127.0.0.1:1/service?ssl_certfile=1",
        "rediss+sentinel://127.0.0.1:1/service?ssl_nonsense=1",
        "redis+cluster://127.0.0.1:1?nonsense=1",
        "rediss+cluster://127.0.0.1:1?ssl_nonsense=1",
        "redis://127.0.0.1/zero",
        "redis://127.0.0.1?decode_responses=True",
        "redis://127.0.0.1?encoding_errors=ignore",
        "redis+sentinel://127.0.0.1:1/service?protocol=3",
        "redis+cluster://127.0.0.1:1?socket_timeout=1",
        "unix:///redis.sock?retry_on_timeout=yes",
        "redis://127.0.0.1?max_connections=0",
        "redis://127.0.0.1?max_connections=many",
        "redis+other://127.0.0.1",
        "memcached://127.0.0.1",
    ],
)
def test_a_url_of_no_known_form_is_refused_and_its_password_is_not_shown(url) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_redis(url.replace("//", "//user:secret@", 1))
    assert "USER_STORE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_nodes_of_a_cluster_together_have_the_time_of_one_to_connect(monkeypatch) -> None:
    monkeypatch.setattr("flask_dash_store.storage.redis.url.RedisCluster", lambda **options: options)
    options = parse("redis+cluster://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", "p", 6.0).connect()
    assert (options["socket_connect_timeout"], options["socket_timeout"]) == (2.0, 6.0)


def test_sentinels_are_asked_over_tls_with_the_same_certificates_as_the_master() -> None:
    options = {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/cert.pem", "ssl_keyfile": "/key.pem"}
    url = f"rediss+sentinel://127.0.0.1:1/main?{urlencode(options)}"
    pool = parse(url, "p", 1.0).connect().connection_pool
    (sentinel,) = pool.sentinel_manager.sentinels
    for made in (pool, sentinel.connection_pool):
        assert options.items() <= made.connection_kwargs.items()


@pytest.mark.parametrize("scheme", ["unix", "redis+unix", "valkey+unix"])
def test_a_socket_and_a_prefix_can_stand_in_the_url(server, client, now, scheme) -> None:
    storage = open_redis(f"{scheme}://{server.socket}?db=1&prefix=app.")
    storage.set(ANN, "k", small(b"v"), now())
    storage.close()
    with redis.Redis(unix_socket_path=str(server.socket), db=1) as other:
        assert other.keys() == [b"app.{s.ann}"]


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_password_lets_in_and_a_wrong_one_is_an_error_at_once_that_does_not_show_it(folder, now, scheme) -> None:
    port = Port()
    with closing(port), RedisServer(folder, port=port.number) as server:
        with server.client() as client:
            client.config_set("requirepass", "open sesame")
        storage = open_redis(f"{scheme}://:open%20sesame@127.0.0.1:{port.number}/0")
        storage.set(ANN, "k", small(b"v"), now())
        storage.close()
        with pytest.raises(StorageError) as caught:
            open_redis(f"{scheme}://:closed%20sesame@127.0.0.1:{port.number}/0")
        assert "sesame" not in str(caught.value)


def test_without_redis_py_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['redis'] = None; import flask_dash_store.storage.redis"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'flask_dash_store[redis]'" in ended.stderr


def test_the_package_does_not_import_redis_py_by_itself() -> None:
    code = "import sys, flask_dash_store; assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
