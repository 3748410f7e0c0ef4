"""Interrupts the operations of a user store in any instruction, as Celery's soft time limits do; see alarms.py."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress

from alarms import interrupt, is_alarm
from flask import Flask

from flask_dash_store import UserStore, UserStoreMiddleware
from flask_dash_store.owner import new_session_id

TIMEOUT = 5.0
LARGE = bytes(200_000)

done: dict[str, int] = {"increment": 0, "edit": 0}


def increment(_: UserStoreMiddleware, store: UserStore) -> None:
    store.increment("increments")
    done["increment"] += 1


def edit(_: UserStoreMiddleware, store: UserStore) -> None:
    with store.edit("edited", []) as edited:
        edited.append(1)
    done["edit"] += 1


def update(_: UserStoreMiddleware, store: UserStore) -> None:
    number = int(store.get("left", 0)) + 1
    store.update(left=number, right=number, large=LARGE)


def pop(middleware: UserStoreMiddleware, store: UserStore) -> None:
    store.pop("large", None)
    other = middleware.for_user("bob")
    other["popped"] = 1
    other.popitem()


def nested(_: UserStoreMiddleware, store: UserStore) -> None:
    with store.transaction():
        number = store.get("left", 0) + 1
        store["left"] = number
        with suppress(ZeroDivisionError), store.transaction():
            store["right"] = 0
            raise ZeroDivisionError
        store.setdefault("default", 1)
        store["right"] = number


def read(_: UserStoreMiddleware, store: UserStore) -> None:
    values = store.copy()
    assert values.get("left") == values.get("right")
    assert "left" not in store or len(store) >= 1
    store.set("limited", 1, ttl=60)
    store.expire("limited", 30)
    store.pop("limited")


def session(middleware: UserStoreMiddleware, _: UserStore) -> None:
    """A session of its own, from its first write to its end."""
    store = middleware.open(new_session_id())
    store["user"] = 1
    former = store.session_id
    store.regenerate("ann")
    assert store["user"] == 1
    assert former is not None
    assert len(middleware.open(former)) == 0
    middleware.end_sessions("ann", but=store)
    middleware.purge()
    store.destroy()
    middleware.end_sessions("ann")


CALLS = (increment, edit, update, pop, nested, read, session)


def main(url: str, alarms: int) -> None:
    """Prints how many alarms came, and "free" when all that was acquired has been released."""
    chance = random.Random(alarms)
    signal.signal(signal.SIGALRM, interrupt)
    came = 0
    for number in range(alarms):
        if number % 50 == 0:  # An app whose first use is interrupted, too.
            middleware = UserStoreMiddleware(new_app(), url=url, timeout=TIMEOUT)
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 10 ** chance.uniform(-6, -2))
                CALLS[number % len(CALLS)](middleware, middleware.for_user("ann"))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Exception as error:
            if not is_alarm(error):
                raise
            came += 1
    check_free(middleware)
    # One that was interrupted may have been committed before.
    store = middleware.for_user("ann")
    are_kept = store.get("increments", 0) >= done["increment"] and len(store.get("edited", [])) >= done["edit"]
    assert store.get("left") == store.get("right")
    sys.stdout.write(f"{came} {are_kept} free")


def new_app() -> Flask:
    app = Flask("alarms")
    app.secret_key = "only for these tests"
    return app


def check_free(middleware: UserStoreMiddleware) -> None:
    """Another thread writes, and a fork returns, each without waiting for the timeout."""
    began = time.monotonic()
    store = middleware.for_user("ann")
    thread = threading.Thread(target=store.increment, args=("free",))
    thread.start()
    thread.join()
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    assert store.increment("free") == 2
    session(middleware, store)
    assert time.monotonic() - began < TIMEOUT - 1, "something was waited for"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
