"""A signal's handler that raises in the middle of a call leaves nothing acquired, and nothing hangs.

Celery's soft time limits raise so (https://docs.celeryq.dev/en/stable/userguide/workers.html#time-limits), and so do
alarms. The exception can come between any two instructions of Python.

Promises: docs/reliability.md, "All or nothing".
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import alarms
import alarms_of_stores
import pytest
import soak

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
