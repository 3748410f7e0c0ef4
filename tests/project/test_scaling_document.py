"""What docs/scaling.md tells people to type is what the package and the servers take."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers_redis import RedisServer

from flask_dash_store.storage import StorageOptions, open_storage
from flask_dash_store.storage.postgresql.connection import Target
from flask_dash_store.storage.redis.url import DEFAULT_PREFIX, parse

TEXT = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
URLS = re.findall(r"^\| `([a-z+]+://[^`]+)` \|", TEXT, re.MULTILINE)


@pytest.mark.parametrize("url", URLS)
def test_each_url_names_a_server_and_its_name_shows_no_password(url: str) -> None:
    name = Target.of(url).name if url.startswith("postgresql") else parse(url, DEFAULT_PREFIX, 1).name
    assert name
    assert "secret" not in name


def test_each_backend_has_some() -> None:
    schemes = {url.partition(":")[0] for url in URLS}
    assert schemes == {"redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "postgresql"}


@pytest.fixture
def folder() -> Iterator[Path]:
    # A socket's path has a hundred characters at most, so it does not lie in pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="redis"))
    yield folder
    shutil.rmtree(folder)


def test_a_redis_server_takes_the_settings_and_the_package_has_nothing_to_warn_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (settings,) = re.findall(r"^```ini\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    options = [word for line in settings.splitlines() for word in f"--{line}".split()]
    with RedisServer(folder, *options) as server, server.client() as client, caplog.at_level(logging.WARNING):
        assert client.config_get("maxmemory")["maxmemory"] != "0"
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        open_storage(server.url, StorageOptions(folder, keep_ended=1)).close()
    assert caplog.text == ""
