"""A signal's handler that raises in the middle of a call leaves nothing acquired, and nothing hangs.

Celery's soft time limits raise so (https://docs.celeryq.dev/en/stable/userguide/workers.html#time-limits), and so do
alarms. The exception can come between any two instructions of Python.

Promises: docs/reliability.md, "All or nothing".
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FrameType

import alarms
import alarms_of_stores
import pytest
import soak

from flask_dash_store import UserStoreMiddleware

ALARMS = soak.repeats(ci=2000, soak=10_000)


@pytest.mark.timeout(300)
def test_whatever_an_alarm_interrupts_is_released_and_acknowledged_writes_stay(url: str, tmp_path: Path) -> None:
    check(alarms.__file__, url, str(tmp_path))


@pytest.mark.timeout(300)
def test_so_it_is_in_any_operation_of_a_user_store_and_of_a_session(url: str) -> None:
    check(alarms_of_stores.__file__, url)


def check(program: str, *args: str) -> None:
    done = subprocess.run([sys.executable, program, *args, str(ALARMS)], capture_output=True, text=True, timeout=280)
    came, *outcome = done.stdout.split() or ["0"]
    assert outcome == ["True", "free"], done.stderr
    assert int(came) > ALARMS / 20, "most alarms came too late to interrupt anything"


def test_an_app_whose_first_use_was_interrupted_in_any_call_works() -> None:
    calls = interrupted_at(sys.maxsize)
    assert calls > 100
    for number in range(calls):
        interrupted_at(number)


def interrupted_at(number: int) -> int:
    """Interrupt the first use of an app in the call of this number, and use it. Returns how many calls came."""
    middleware = UserStoreMiddleware(alarms_of_stores.new_app(), url="memory://", flask_session=True)
    calls = 0

    def count_or_interrupt(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        # Python ignores what is raised in the callbacks of weak references, which are none of the package's calls.
        if event in ("call", "return") and frame.f_globals["__name__"].startswith("flask_dash_store."):
            calls += 1
            if calls > number:
                raise alarms.Alarm

    try:
        sys.setprofile(count_or_interrupt)  # Raises one time, for an exception ends it.
        middleware.for_user("ann")
    except alarms.Alarm:
        pass
    finally:
        sys.setprofile(None)
    assert middleware.for_user("ann").increment("number") == 1
    return calls
