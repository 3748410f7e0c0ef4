"""What talks to a server need not be installed where there is none, and no message shows a password."""

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from clocks import HandClock
from flask import Flask
from visits import Site

from flask_dash_store import UserStoreError, UserStoreMiddleware

PACKAGES = {"redis": "redis", "postgresql": "psycopg"}
INSTALL = f"""
from flask import Flask
from flask_dash_store import UserStoreMiddleware
app = Flask("app")
app.secret_key = "{"k" * 32}"
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)


def test_an_app_on_sqlite_imports_neither_redis_nor_psycopg(tmp_path: Path) -> None:
    code = f"""{INSTALL}
stores = UserStoreMiddleware(app, url="sqlite:///{tmp_path}/store.sqlite")
stores.for_user("ann")["name"] = "Ann"
import sys
print(sorted({{"redis", "psycopg", "psycopg_pool"}} & set(sys.modules)))
"""
    done = python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("redis://localhost/0", "redis"),
        ("valkey://localhost/0", "redis"),
        ("rediss://localhost/0", "redis"),
        ("unix:///tmp/redis.sock", "redis"),
        ("redis+sentinel://localhost/main", "redis"),
        ("redis+cluster://localhost", "redis"),
        ("postgresql://localhost/db", "postgresql"),
        ("postgres://localhost/db", "postgresql"),
    ],
)
def test_a_backend_whose_extra_is_missing_says_which_to_install(url: str, extra: str, tmp_path: Path) -> None:
    use = f"UserStoreMiddleware(app, url='{url}').for_user('ann')"
    code = f"import sys; sys.modules['{PACKAGES[extra]}'] = None\n{INSTALL}\n{use}"
    last = python(code, tmp_path).stderr.splitlines()[-1]
    assert last.startswith("flask_dash_store.errors.ConfigurationError: ")
    assert f"pip install 'flask_dash_store[{extra}]'" in last


@pytest.mark.parametrize("extra", PACKAGES)
def test_the_extra_that_is_named_brings_the_package(extra: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert any(requirement.startswith(PACKAGES[extra]) for requirement in extras[extra])


# Passwords

SECRET = "s3cr3t"

UNREACHABLE = [
    f"redis://ann:{SECRET}@127.0.0.1:1/0",
    f"rediss://:{SECRET}@127.0.0.1:1/0",
    f"redis+sentinel://ann:{SECRET}@127.0.0.1:1/main?sentinel_password={SECRET}",
    f"redis+cluster://ann:{SECRET}@127.0.0.1:1",
    f"unix://ann:{SECRET}@/no/such/socket",
    f"postgresql://ann:{SECRET}@127.0.0.1:1/db",
    f"postgresql://ann@127.0.0.1:1/db?password={SECRET}",
]
WRONG = [
    f"mysql://ann:{SECRET}@host/db",
    f"postgresq://ann:{SECRET}@host/db",
    f"redis://ann:{SECRET}/2@host/0",
    f"redis://ann:{SECRET}#2@host/0",
    f"redis://ann:{SECRET}@host:port/0",
    f"redis://ann:{SECRET}@host/0?nonsense=1",
    f"redis+sentinel://ann:{SECRET}@host",
    f"redis+sentinel://ann:{SECRET}/2@host/main",
    f"redis+cluster://ann:{SECRET}@host/3",
    f"rediss:ann:{SECRET}@host",
    f"postgresql://ann:{SECRET}%zz@host/db",
    f"postgresql://ann:{SECRET}/2@host/db",
    f"postgresql://ann:2/{SECRET}@host/db",
    f"postgresql://ann:{SECRET}@[host/db",
    f"postgresql://ann:{SECRET}@host/db?nonsense=1",
    f"postgresql://ann@host/db?password=half&{SECRET}=half",
    f"postgresql://ann@host/db?password={SECRET}%zz",
    f"postgresql://ann:{SECRET} 2@127.0.0.1:1/db",
    f"postgresql://ann:half@{SECRET}@host/db",
    f"postgresql://127.0.0.1:{SECRET}/db",
    f"postgresql+psycopg://ann:{SECRET}@host/db",
    f"postgresql:/ann:{SECRET}@host/db",
    f"postgres:ann:{SECRET}@host/db",
]


@pytest.mark.parametrize("url", UNREACHABLE + WRONG)
def test_no_message_repr_or_log_line_shows_the_password(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[Any] = []
    app = Flask("app")
    app.secret_key = "k" * 32
    try:
        stores = UserStoreMiddleware(app, url=url, timeout=0.2)
        said += [repr(each) for each in (stores, app.extensions["user_store"])]
        opened = stores.opened()
        storage, store = opened.storage, stores.for_user("ann")
        said += [repr(each) for each in (opened, vars(opened), storage, vars(storage), store)]
        store["name"] = "Ann"
    except UserStoreError as error:
        said += [str(error), repr(error), error.__notes__ if hasattr(error, "__notes__") else ""]
    else:
        raise AssertionError("a server was there")
    site = Site(HandClock(), tmp_path)
    site.middleware.for_user("ann")["name"] = "Ann"
    command = ["user-store", "copy", f"sqlite:///{tmp_path}/store.sqlite", url]
    result = site.app.test_cli_runner().invoke(args=command)
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    said += [result.output, caplog.text, *capfd.readouterr()]
    assert not [each for each in said if SECRET in str(each)]
