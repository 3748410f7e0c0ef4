"""The package where Python lacks what it lacks on Windows: a simulation, for there is no Windows here.

Promises: docs/platforms.md, which says what is simulated and what is not.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

import pytest
from http_visitor import THREADS, Visitor, in_parallel
from servers import START_TIMEOUT, Port, running

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "support" / "apps"
SIMULATION = ROOT / "tests" / "support" / "simulated_windows"
TIMEOUT = 280
TIMES = 10
POLL = 0.05

STORAGES_AND_SESSIONS = (
    "tests/contract/test_storage_contract.py",
    "tests/mapping/test_large_values.py",
    "tests/http/test_session.py",
    "tests/http/test_session_end.py",
    "tests/sqlite/test_backup.py",
)
# What forks; servers that fork; what is the same on each system, in so many forms that it would take long.
LEFT_OUT = (
    *("fork", "under_load", "running_app", "where_there_is_no_file"),
    *("memory", "temporary", "asgi", "redis", "postgresql", "whatever_their_names", "absent"),
    *("id_that_was_renewed", "touch_is_due", "more_values_than"),
)
ON_SERVERS = "transaction_wrote and (postgresql or (redis and not cluster)) and not fork"


def environ(*more: Path) -> dict[str, str]:
    """The environment in which each Python is as on Windows."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (SIMULATION, ROOT, *more)))}


def python(*args: str, folder: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=environ(), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_simulation_takes_away_what_windows_has_not(tmp_path: Path) -> None:
    code = """
import importlib, os, sys
for name in ("fcntl", "pwd"):
    try:
        importlib.import_module(name)
    except ImportError:
        print(name)
print([name for name in ("fork", "geteuid", "O_NOFOLLOW", "pwrite", "register_at_fork") if hasattr(os, name)])
open("free", "w").close()
os.rename("free", "renamed")
with open("used", "w"):
    for change, *names in ((os.unlink, "used"), (os.rename, "used", "other"), (os.replace, "renamed", "used")):
        try:
            change(*names)
        except PermissionError:
            print("refused")
try:
    os.rename("renamed", "used")
except FileExistsError:
    print("exists")
os.unlink("used")
try:
    os.open(".", os.O_RDONLY)
except PermissionError:
    print("a directory")
print(os.listdir())
"""
    said = python("-c", code, folder=tmp_path).splitlines()
    assert said == ["fcntl", "pwd", "[]", "refused", "refused", "refused", "exists", "a directory", "['renamed']"]


def test_the_package_and_all_that_is_in_it_is_imported(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, flask_dash_store
for module in pkgutil.walk_packages(flask_dash_store.__path__, "flask_dash_store."):
    importlib.import_module(module.name)
    print(module.name)
"""
    said = python("-W", "error", "-c", code, folder=tmp_path)
    assert {"flask_dash_store.storage.sqlite.reserve", "flask_dash_store.storage.postgresql.pool"} <= set(said.split())


@pytest.mark.timeout(300)
def test_storages_sessions_and_large_values_are_what_they_are_elsewhere() -> None:
    selection = f"({' and '.join(f'not {each}' for each in LEFT_OUT)}) or ({ON_SERVERS})"
    said = python(
        *("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "tests.support.no_skips"),
        *(*STORAGES_AND_SESSIONS, "-k", selection),
    )
    assert " passed" in said


def test_waitress_serves_an_app_whose_threads_lose_nothing(tmp_path: Path) -> None:
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": f"sqlite:///{tmp_path}/s.sqlite"}
    with closing(Port()) as port:
        command = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port.number}", "fault_app:server"]
        with running(command, port.number, tmp_path, environ(APPS) | settings):
            visitor = Visitor(port.number)
            visitor.do("GET", "/values")
            sums = in_parallel(lambda _: [visitor.do("POST", "/increment")["n"] for _ in range(TIMES)])
            assert sorted(itertools.chain(*sums)) == list(range(1, THREADS * TIMES + 1))


DASH_APP = """
import os
from dash import Dash, html
from flask import g
from flask_dash_store import UserStoreMiddleware

app = Dash(__name__)
app.server.secret_key = "only for these tests"
UserStoreMiddleware(app, url="sqlite:///" + os.path.abspath("store.sqlite"))
app.layout = html.Div()


@app.server.get("/visits")
def visits():
    return {"n": g.user_store.increment("n"), "process": os.getpid()}


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), debug=True)
"""


def test_a_visitor_keeps_the_store_when_the_reloader_of_dash_starts_the_app_again(tmp_path: Path) -> None:
    module = tmp_path / "app.py"
    module.write_text(DASH_APP)
    with closing(Port()) as port:
        settings = {"PORT": str(port.number)}
        with running([sys.executable, str(module)], port.number, tmp_path, environ() | settings):
            visitor = Visitor(port.number)
            first = visitor.do("GET", "/visits")
            assert visitor.do("GET", "/visits") == {"n": 2, "process": first["process"]}
            module.write_text(f"{DASH_APP}# changed\n")
            deadline = time.monotonic() + START_TIMEOUT
            seen, process = 2, first["process"]
            while process == first["process"]:
                assert time.monotonic() < deadline
                try:
                    answer = visitor.do("GET", "/visits")
                except (OSError, HTTPException):  # It is being started, perhaps in the middle of an answer.
                    time.sleep(POLL)  # Asked without a break, it would take longer.
                    continue
                assert answer["n"] > seen
                seen, process = answer["n"], answer["process"]
