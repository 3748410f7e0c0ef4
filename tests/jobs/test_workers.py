"""Jobs in the queues that people have, each with its own worker process, and in threads of the app.

Promises: docs/security.md, "Jobs".
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from apscheduler.events import EVENT_JOB_REMOVED
from apscheduler.schedulers.background import BackgroundScheduler
from brokers import assert_opens_nothing, everything_on
from documents import ROOT
from flask import copy_current_request_context, g
from flask.testing import FlaskClient
from servers import job_worker
from servers_redis import RedisServer

from flask_dash_store import SessionEnded

APPS = ROOT / "tests" / "support" / "apps"
BIN = Path(sys.executable).parent

WORKERS = {
    "rq": [BIN / "rq", "worker", "--url", "unix://{socket}"],
    "celery": [BIN / "celery", "--app", "job_app:celery", "worker", "--concurrency", "1"],
    "huey": [BIN / "huey_consumer", "job_app.huey", "--workers", "1"],
    "dramatiq": [BIN / "dramatiq", "job_app", "--processes", "1", "--threads", "1"],
}


@pytest.fixture(scope="module")
def broker() -> Iterator[RedisServer]:
    # A socket's path has a hundred characters at most, so it does not lie in pytest's folders.
    with tempfile.TemporaryDirectory(prefix="redis") as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture
def jobs(broker: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The app, on an empty broker."""
    with broker.client() as redis:
        redis.flushall()
    monkeypatch.setenv("JOBS_REDIS", str(broker.socket))
    monkeypatch.setenv("JOBS_STORE", f"sqlite:///{tmp_path}/store.sqlite")
    monkeypatch.syspath_prepend(APPS)
    yield (module := importlib.import_module("job_app"))
    module.stores.close()
    del sys.modules["job_app"]


@pytest.fixture
def visitor(jobs: ModuleType) -> FlaskClient:
    return jobs.app.test_client()


@contextmanager
def worker(queue: str, broker: RedisServer, folder: Path) -> Iterator[None]:
    """A worker process of a queue."""
    command = [str(each).format(socket=broker.socket) for each in WORKERS[queue]]
    environ = {"PYTHONPATH": os.pathsep.join([str(APPS), str(ROOT)]), "PYTHONWARNINGS": "default"}
    with job_worker(command, folder, environ):
        yield


def outcome(jobs: ModuleType, broker: RedisServer) -> str:
    """What the next job that is done has done."""
    with broker.client() as redis:
        redis.connection_pool.connection_kwargs["socket_timeout"] = 70
        done = redis.blpop(jobs.DONE, timeout=60)
        assert done is not None, "No job was done."
        return done[1].decode()


def cookie(client: FlaskClient) -> str:
    found = client.get_cookie("user_store")
    assert found is not None
    return found.value


# Queues


@pytest.mark.parametrize("queue", WORKERS)
def test_a_job_in_a_worker_writes_to_its_visitor_after_a_login_and_not_after_a_logout_and_the_broker_opens_no_session(
    jobs: ModuleType, visitor: FlaskClient, broker: RedisServer, tmp_path: Path, queue: str
) -> None:
    assert visitor.post(f"/report/{queue}").status_code == 202
    before = cookie(visitor)
    visitor.post("/login/ada")
    other = jobs.app.test_client()
    other.post("/login/bob")
    other.post(f"/report/{queue}")
    other.post("/logout")
    held = everything_on(broker)
    assert before[:20].encode() in held  # It is in the handle, so that is among what was unpacked.
    for each in (before, cookie(visitor), cookie(other)):
        assert_opens_nothing(held, each)
    with worker(queue, broker, tmp_path):  # One does both, for most of the time is that in which it starts.
        assert {outcome(jobs, broker), outcome(jobs, broker)} == {"stored", "ended"}
    assert [each.get("/report").text for each in (visitor, other)] == ["for ada", "None"]


# In the app's process


def test_a_job_of_apscheduler_writes_to_its_visitor_who_has_logged_in_meanwhile(
    jobs: ModuleType, visitor: FlaskClient, broker: RedisServer
) -> None:
    scheduler, is_removed = BackgroundScheduler(timezone="UTC"), threading.Event()
    scheduler.add_listener(lambda _: is_removed.set(), EVENT_JOB_REMOVED)
    jobs.QUEUES["apscheduler"] = lambda handle: scheduler.add_job(jobs.work, args=[handle])
    visitor.post("/report/apscheduler")
    visitor.post("/login/ada")
    scheduler.start()
    try:
        assert outcome(jobs, broker) == "stored"
        assert is_removed.wait(60)  # By the scheduler's thread, which raises if shutdown() has removed it before.
    finally:
        scheduler.shutdown()
    assert visitor.get("/report").text == "for ada"


@pytest.fixture
def begun(jobs: ModuleType) -> dict[str, Callable[[], None]]:
    """What a view has made for a thread, by the way in which that comes to the store."""
    begun: dict[str, Callable[[], None]] = {}

    def with_handle(handle: str) -> None:
        begun["handle"] = lambda: jobs.stores.open(handle).update(report="from a thread")

    def with_context(_: str) -> None:
        begun["context"] = copy_current_request_context(lambda: g.user_store.update(report="from a thread"))

    jobs.QUEUES |= {"handle": with_handle, "context": with_context}
    return begun


def run_in_thread(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()


@pytest.mark.parametrize("way", ["handle", "context"])
def test_a_thread_writes_to_its_visitor_after_the_response(begun, visitor: FlaskClient, way: str) -> None:
    visitor.post(f"/report/{way}")
    run_in_thread(begun[way])
    assert visitor.get("/report").text == "from a thread"


def test_after_a_login_a_thread_goes_on_with_a_handle_but_not_with_the_context_of_a_request_before(
    begun, visitor: FlaskClient
) -> None:
    for way in ("handle", "context"):
        visitor.post(f"/report/{way}")
    visitor.post("/login/ada")
    with pytest.raises(SessionEnded):
        run_in_thread(begun["context"])
    assert visitor.get("/report").text == "None"
    run_in_thread(begun["handle"])
    assert visitor.get("/report").text == "from a thread"
