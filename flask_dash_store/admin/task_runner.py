"""Runs the tasks of the admin page, one at a time over all workers, and says how far each is.

A task runs in a thread of the worker that was asked. What is known of it is a record in the store, so that each worker
can show it. The record has a lease, which its worker renews. A task whose lease has run out is lost: its worker has
ended, or hangs. Then the next task may begin.
"""

from __future__ import annotations

import logging
import secrets
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import UserStoreError
from ..extension import OpenedExtension
from ..owner import TASKS_OWNER
from .records import change_record, read_record
from .tasks import Outcome, Work, tasks_for

logger = logging.getLogger("flask_dash_store")

RENEWED_EACH = 0.5
LEASE = 30.0
TRIES_TO_END = 20

State = Literal["running", "done", "failed", "lost"]


class TaskView(NamedTuple):
    """What is known of the last run of a task.

    :ivar began: in seconds since the epoch
    :ivar ended: the same; None while it runs, or when it is lost
    :ivar done: how much is done, of ``total``; both are 0 while that is not known
    """

    kind: str
    state: State
    began: float
    ended: float | None
    done: int
    total: int
    text: str
    is_good: bool
    details: tuple[str, ...]


class TaskRunner:
    """Starts tasks, and knows of those of all workers.

    :param backups: the folder for backups; None for no backups
    """

    def __init__(self, backups: Path | None) -> None:
        self.backups = backups

    def kinds(self, extension: OpenedExtension) -> list[str]:
        """Which tasks this store has."""
        return list(tasks_for(extension, self.backups))

    def views(self, extension: OpenedExtension) -> dict[str, TaskView]:
        """The last run of each task, by its kind."""
        now = extension.now()
        record = read_record(extension, TASKS_OWNER) or {}
        return {kind: _view(kind, run, now) for kind, run in record.items()}

    def start(self, extension: OpenedExtension, kind: str) -> bool:
        """Start a task, unless one runs. Returns whether it was started.

        :raises UserStoreError: when that cannot be noted
        :raises KeyError: when the store has no such task
        """
        work, run = tasks_for(extension, self.backups)[kind], _Run(extension, kind)
        if run.begin():
            threading.Thread(target=run.do, args=(work,), name=f"flask_dash_store.{kind}", daemon=True).start()
            return True
        return False


class _Run:
    """One run of a task in this worker."""

    def __init__(self, extension: OpenedExtension, kind: str) -> None:
        self._extension = extension
        self._kind = kind
        self._id = secrets.token_hex(8)
        self._progress = (0, 0)
        self._outcome: Outcome | None = None

    def begin(self) -> bool:
        """Take the lease. Returns whether no other task has it."""
        now = self._now()

        def begin(record: Any) -> Any:
            record = record or {}
            if any(_view(kind, run, now).state == "running" for kind, run in record.items()):
                return record
            run = {"id": self._id, "began": now, "renewed": now, "ended": None, "done": 0, "total": 0}
            return {**record, self._kind: run}

        return self._is_ours(change_record(self._extension, TASKS_OWNER, begin))

    def do(self, work: Work) -> None:
        """Work, in a thread of its own, for it may take long without saying so, and renew the lease meanwhile."""
        working = threading.Thread(
            target=self._work, args=(work,), name=f"flask_dash_store.{self._kind}.work", daemon=True
        )
        working.start()
        while working.is_alive():
            working.join(RENEWED_EACH)
            if working.is_alive():
                self._note({"renewed": self._now(), "done": self._progress[0], "total": self._progress[1]})
        outcome = self._outcome or Outcome("It failed; the log says why.", False)
        ended = {"ended": self._now(), "text": outcome.text, "good": outcome.is_good, "details": list(outcome.details)}
        for _ in range(TRIES_TO_END):
            if self._note(ended):
                return
            threading.Event().wait(RENEWED_EACH)

    def _work(self, work: Work) -> None:
        try:
            self._outcome = work(self._extension, self._note_progress)
        except UserStoreError as error:
            self._outcome = Outcome(f"It failed: {error}", False)
        except Exception:
            logger.exception("The task %s of the admin page failed.", self._kind)

    def _note_progress(self, done: int, total: int) -> None:
        self._progress = done, total

    def _note(self, changes: dict[str, Any]) -> bool:
        """Change what is known of this run, if it still has the lease. Returns whether that is done with."""
        try:
            change_record(self._extension, TASKS_OWNER, lambda record: self._changed(record or {}, changes))
        except UserStoreError as error:  # Others are writing, or the disk is full. The next one may succeed.
            logger.debug("The task %s could not say how far it is: %s", self._kind, error)
            return False
        return True

    def _changed(self, record: Any, changes: dict[str, Any]) -> Any:
        return {**record, self._kind: {**record[self._kind], **changes}} if self._is_ours(record) else record

    def _is_ours(self, record: Any) -> bool:
        return bool(record.get(self._kind, {}).get("id") == self._id)

    def _now(self) -> float:
        return self._extension.now()


def _view(kind: str, run: dict[str, Any], now: float) -> TaskView:
    is_good = run.get("good", True)
    state: State = "done" if is_good else "failed"
    if run["ended"] is None:
        state = "running" if abs(now - run["renewed"]) < LEASE else "lost"
    text, details = run.get("text", ""), tuple(run.get("details", ()))
    return TaskView(kind, state, run["began"], run["ended"], run["done"], run["total"], text, is_good, details)
