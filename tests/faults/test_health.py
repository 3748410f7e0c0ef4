"""`health()` says in time whether the storage can be read and written, and how full it is, whatever happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from faults import DISKS, write_lock_held
from flask import Flask, jsonify
from http_visitor import Visitor, ask_both_workers
from servers import Port, gunicorn, running

from flask_dash_store import Health, UserStoreMiddleware

APPS = Path(__file__).parents[1] / "support" / "apps"
SECRET_KEY = "only for these tests, which protect nothing"


def stores_at(url: str, **options: float) -> UserStoreMiddleware:
    app = Flask("health")
    app.secret_key = SECRET_KEY
    return UserStoreMiddleware(app, url=url, **options)  # type: ignore[arg-type]


def test_a_storage_that_can_be_used_is_well(url: str) -> None:
    stores = stores_at(url)
    for _ in range(3):
        health = stores.health()
        assert (health.ok, health.can_read, health.can_write, health.problem) == (True, True, True, None)
    stores.close()


def test_a_view_answers_with_it(tmp_path: Path) -> None:
    stores = stores_at(f"sqlite:///{tmp_path}/store.sqlite")
    app = stores.extension().app
    app.add_url_rule("/health", "health", lambda: jsonify(stores.health().as_dict()))
    answer = app.test_client().get("/health").json
    assert answer == {**answer, "ok": True, "can_read": True, "can_write": True, "problem": None}
    assert answer["used"] > 0
    assert answer["free"] > 0


def test_to_look_leaves_no_session_and_no_user(url: str) -> None:
    stores = stores_at(url)
    stores.health()
    runner = stores.extension().app.test_cli_runner()
    stats = json.loads(runner.invoke(args=["user-store", "stats", "--json"]).output)
    assert (stats["sessions"], stats["users"]) == (0, 0)
    assert runner.invoke(args=["user-store", "check"]).output == "No damage found.\n"
    stores.close()


def test_while_another_process_writes_it_can_be_read_and_the_answer_comes_in_time(tmp_path: Path) -> None:
    stores = stores_at(f"sqlite:///{tmp_path}/store.sqlite", timeout=30)
    assert stores.health().ok
    with write_lock_held(tmp_path / "store.sqlite"):
        for _ in range(3):  # All of them ask one thread.
            health = stores.health(timeout=0.1)
            assert (health.ok, health.can_read, health.can_write) == (False, True, False)
            assert health.problem == "The storage did not answer writes within 0.1 seconds."
    deadline = time.monotonic() + 60
    while not stores.health().ok:
        assert time.monotonic() < deadline
    stores.close()


def test_a_lock_that_is_held_for_longer_than_a_call_waits_is_said(tmp_path: Path) -> None:
    stores = stores_at(f"sqlite:///{tmp_path}/store.sqlite", timeout=0.1)
    assert stores.health().ok
    with write_lock_held(tmp_path / "store.sqlite"):
        health = stores.health(timeout=60)
    assert (health.can_read, health.can_write) == (True, False)
    assert "USER_STORE_TIMEOUT" in str(health.problem)
    stores.close()


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"no database" * 1000)
    health = stores_at(f"sqlite:///{tmp_path}/store.sqlite").health()
    assert (health.ok, health.can_read, health.can_write) == (False, False, False)
    assert "not a database" in str(health.problem)


def test_a_server_that_is_not_there_is_said() -> None:
    stores = stores_at("redis://127.0.0.1:1/0")
    health = stores.health(timeout=60)
    assert (health.ok, health.can_read, health.can_write) == (False, False, False)
    assert "Connection refused" in str(health.problem)
    stores.close()


def test_a_fork_looks_for_itself(tmp_path: Path) -> None:
    stores = stores_at(f"sqlite:///{tmp_path}/store.sqlite")
    assert stores.health().ok
    child = os.fork()
    if not child:
        os._exit(0 if stores.health(timeout=60).ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stores.close()


def test_health_is_made_of_what_json_has() -> None:
    health = Health(True, False, "It is full.", 0.1, 1, 2)
    assert json.loads(json.dumps(health.as_dict()))["ok"] is False


@pytest.fixture(params=DISKS, ids=lambda disk: disk.__name__)
def disk_and_visitor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Visitor, object, object]]:
    disk = request.param(tmp_path)
    environ = {"FLASK_SECRET_KEY": SECRET_KEY, "FLASK_USER_STORE_URL": f"sqlite:///{disk.folder}/store.sqlite"}
    with closing(Port()) as port:
        command = disk.command(gunicorn("fault_app:server", port.number, APPS))
        with running(command, port.number, tmp_path, environ) as server:
            yield Visitor(port.number), disk, server


def test_on_a_full_disk_it_can_be_read_and_is_not_well(disk_and_visitor) -> None:
    visitor, disk, server = disk_and_visitor
    assert all(answer.body["health"]["ok"] for answer in ask_both_workers(visitor, "GET", "/health"))
    with disk.full(server):
        for nbytes in (10_000, 1):
            for n in range(3000):
                if visitor.ask("PUT", f"/values/key-{nbytes}-{n}", "x" * nbytes).status != 200:
                    break
        for answer in ask_both_workers(visitor, "GET", "/health"):
            health = answer.body["health"]
            assert (health["ok"], health["can_read"]) == (False, True)
            assert "full" in health["problem"]
    assert all(answer.body["health"]["ok"] for answer in ask_both_workers(visitor, "GET", "/health"))
