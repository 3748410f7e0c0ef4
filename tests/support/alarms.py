"""Interrupts calls of a storage in any instruction, as Celery's soft time limits do, and counts what is left over."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.owner import user_owner
from flask_dash_store.storage import Storage, StorageOptions, open_storage

ANN = user_owner("ann")
ACCESS = ExpiryPolicy(None, time.time).access()


class Alarm(Exception):
    """What the handler raises, as Celery's SoftTimeLimitExceeded."""


def interrupt(*_: object) -> None:
    raise Alarm


def increment(storage: Storage, key: str) -> None:
    with storage.transaction(ANN):
        stored = storage.get(ANN, key, ACCESS)
        number = int(stored[0]) if stored else 0
        storage.set(ANN, key, (b"%d" % (number + 1), None), ACCESS)


def nested(storage: Storage, key: str) -> None:
    with storage.transaction(ANN):
        increment(storage, key)
        with suppress(ZeroDivisionError), storage.transaction(ANN):
            increment(storage, key)
            raise ZeroDivisionError


def overwrite(storage: Storage, key: str) -> None:
    storage.set(ANN, "other", (b"1", None), ACCESS)


def read(storage: Storage, key: str) -> None:
    storage.get(ANN, "other", ACCESS)


CALLS = (increment, nested, overwrite, read)


def main(url: str, folder: str, alarms: int) -> None:
    """Prints how many alarms came, and "free" when all that was acquired has been released."""
    chance = random.Random(alarms)
    storage = open_storage(url, StorageOptions(folder=Path(folder), timeout=5.0))
    signal.signal(signal.SIGALRM, interrupt)
    done = came = 0
    for number in range(alarms):
        call = CALLS[number % len(CALLS)]
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-4))
                call(storage, "number")
                done += call in (increment, nested)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Exception as error:
            if not is_alarm(error):
                raise
            came += 1
    _check_free(storage)
    stored = storage.get(ANN, "number", ACCESS)
    number = int(stored[0]) if stored else 0
    # One that was interrupted may have been committed before.
    sys.stdout.write(f"{came} {number >= done} free")


def is_alarm(error: BaseException | None) -> bool:
    """Whether an alarm was the reason. A driver may have made another error of it, as psycopg does in places."""
    while error is not None:
        if isinstance(error, Alarm):
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_free(storage: Storage) -> None:
    """Another thread writes, and a fork returns, each without waiting for the timeout."""
    began = time.monotonic()
    thread = threading.Thread(target=increment, args=(storage, "free"))
    thread.start()
    thread.join()
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    increment(storage, "free")
    stored = storage.get(ANN, "free", ACCESS)
    assert stored is not None
    assert int(stored[0]) == 2
    assert time.monotonic() - began < 4, "something was waited for"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
