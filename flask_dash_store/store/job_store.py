"""A visitor's store in a job: the values, whichever session id opens them by now, but not the session."""

from __future__ import annotations

from typing import NoReturn

from ..errors import OutsideRequest, SessionEnded
from ..expiry import Access
from ..job_handle import Job
from .session_state import SessionState
from .user_store import SessionContext, UserStore


class JobStore(UserStore):
    """What :meth:`UserStoreMiddleware.open` gives for a job's handle.

    It reads and writes what the visitor's requests do, whichever id they come with. That does not count as a use
    of the session, so it moves no expiry. It has no session id. ``regenerate`` and ``destroy`` raise
    :class:`~flask_dash_store.errors.OutsideRequest`, for no response can bring the browser the next id.

    Once the session has ended, or the lifetime that it had when the handle was made, the store is empty, and writing to
    it raises :class:`~flask_dash_store.errors.SessionEnded`.
    """

    def __init__(self, context: SessionContext, job: Job) -> None:
        state = SessionState(job.owner)
        state.ends_at = job.ends_at
        super().__init__(context, state)

    def _require_session(self, call: str) -> NoReturn:
        raise OutsideRequest(
            f"{call}() gives the browser another session id, which takes a response; a job has none. Call it in a view."
        )

    def _access(self) -> Access:
        ends_at = self._state.ends_at
        access = self._context.expiry.access(ends_at, counts_as_use=False)
        if access.now >= ends_at:  # The storage may have forgotten by now which of the session's ids are dead.
            raise SessionEnded(ends_at)
        return access

    _write_access = _access

    def _recover(self, ended: SessionEnded) -> bool:  # noqa: ARG002
        """Go on with the id that a login has given the session, if that is why the one before has ended."""
        try:
            self._state.owner = self._storage.current(self._state.owner, self._access())
        except SessionEnded:
            return False
        return True
