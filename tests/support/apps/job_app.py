"""An app that hands work to each job queue, and the module that the queues' workers load.

Its settings come from the environment: the URL of the store, and the socket of the queues' Redis server.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import dramatiq
from celery import Celery
from dramatiq.brokers.redis import RedisBroker
from flask import Flask, g
from huey import RedisHuey
from redis import Redis
from rq import Queue

from flask_dash_store import SessionEnded, UserStoreMiddleware

SOCKET = os.environ["JOBS_REDIS"]
DONE = "tests:done"  # A list on the server, on which a test waits.

app = Flask("jobs")
app.secret_key = "only for tests, where no one is to be kept out"
stores = UserStoreMiddleware(app, url=os.environ["JOBS_STORE"])


def work(handle: str) -> None:
    """What the jobs do: a report for whoever is logged in by then."""
    store = stores.open(handle)
    try:
        store["report"] = f"for {store.get('user')}"
    except SessionEnded:
        outcome = "ended"
    else:
        outcome = "stored"
    with Redis(unix_socket_path=SOCKET) as redis:
        redis.rpush(DONE, outcome)


rq = Queue(connection=Redis(unix_socket_path=SOCKET))
celery = Celery("jobs", broker=f"redis+socket://{SOCKET}")
huey = RedisHuey("jobs", url=f"unix://{SOCKET}")
dramatiq.set_broker(RedisBroker(url=f"unix://{SOCKET}"))

QUEUES: dict[str, Callable[[str], Any]] = {
    "rq": lambda handle: rq.enqueue(work, handle),
    "celery": celery.task(name="work")(work).delay,
    "huey": huey.task()(work),
    "dramatiq": dramatiq.actor(work).send,
}


@app.post("/report/<queue>")
def begin_report(queue: str) -> tuple[str, int]:
    QUEUES[queue](g.user_store.job_handle())
    return "", 202


@app.get("/report")
def report() -> str:
    return str(g.user_store.get("report"))


@app.post("/login/<user>")
def log_in(user: str) -> str:
    g.user_store.regenerate(user_id=user)
    g.user_store["user"] = user
    return ""


@app.post("/logout")
def log_out() -> str:
    g.user_store.destroy()
    return ""
