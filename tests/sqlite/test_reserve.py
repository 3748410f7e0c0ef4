"""The space that is kept back for a full disk: whoever has used it leaves it free, however that ended.

Promises: docs/reliability.md, "Each call in its time, and each error where it belongs".
"""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from backends import Child

from flask_dash_store import StorageBusy
from flask_dash_store.storage.sqlite.reserve import RESERVED_BYTES, Reserve

KILLED_WHILE_IT_IS_USED = """
import os, signal, sys
from flask_dash_store.storage.sqlite.reserve import Reserve
with Reserve(sys.argv[1], 1).released():
    os.kill(os.getpid(), signal.SIGKILL)
"""
INTERRUPTED = """
import random, signal, sys
from flask_dash_store.storage.sqlite.reserve import Reserve

class Alarm(Exception):
    pass

def interrupt(*_):
    raise Alarm

reserve, chance, came = Reserve(sys.argv[1], 1), random.Random(1), 0
signal.signal(signal.SIGALRM, interrupt)
for _ in range(200):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 6e-4))
            with reserve.released():
                pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Alarm:
        came += 1
with reserve.released():
    print(came)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"{tmp_path}/values.sqlite-reserve"


def python(code: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)


def test_it_is_taken_up_and_free_while_it_is_used(path: str) -> None:
    reserve = Reserve(path, 0.1)
    reserve.keep()
    assert os.stat(path).st_blocks * 512 >= RESERVED_BYTES
    with reserve.released():
        assert os.stat(path).st_blocks == 0
        with pytest.raises(StorageBusy), Reserve(path, 0.1).released():
            pass
    assert os.stat(path).st_blocks * 512 >= RESERVED_BYTES


def test_it_is_free_when_who_used_it_was_killed(path: str) -> None:
    assert python(KILLED_WHILE_IT_IS_USED, path).returncode == -9
    with Reserve(path, 0.1).released():
        pass


def test_it_is_free_when_who_used_it_was_interrupted(path: str) -> None:
    done = python(INTERRUPTED, path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def live_until(over: Any) -> None:
    over.wait(60)


def test_a_process_that_was_forked_while_it_was_used_does_not_keep_it(path: str) -> None:
    over = get_context("fork").Event()
    with Reserve(path, 0.1).released():
        forked = Child("fork", live_until, over)
    with Reserve(path, 0.1).released():
        over.set()
    assert forked.outcome() is None
