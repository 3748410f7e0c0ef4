"""A visitor's store in a job: the values, under any later session id, but not the session itself."""

from __future__ import annotations

from typing import NoReturn

from ..errors import OutsideRequest, SessionEnded
from ..expiry import Access
from ..job_handle import Job
from .session_state import SessionState
from .user_store import SessionContext, UserStore


class JobStore(UserStore):
    """What :meth:`UserStoreMiddleware.open` returns for a job handle.

    It reads and writes the same values as the visitor's requests, even after the session has got another id. This does
    not count as a use of the session, so it moves no expiry. ``session_id`` is None, and ``regenerate`` and ``destroy``
    raise :class:`~flask_dash_store.errors.OutsideRequest`, because no response can bring the browser a new id.

    Once the session has ended, or the lifetime that it had when the handle was made, the store is empty, and writing to
    it raises :class:`~flask_dash_store.errors.SessionEnded`.
    """

    def __init__(self, context: SessionContext, job: Job) -> None:
        state = SessionState(job.owner)
        state.ends_at = job.ends_at
        super().__init__(context, state)

    def _require_session(self, call: str) -> NoReturn:
        raise OutsideRequest(
            f"{call}() changes the session id, which a response must bring the browser; a job has none. Call it in a "
            "view."
        )

    def _access(self) -> Access:
        ends_at = self._state.ends_at
        access = self._context.expiry.access(ends_at, counts_as_use=False)
        if access.now >= ends_at:  # By now, the storage may no longer know which of the session's ids are dead.
            raise SessionEnded(ends_at)
        return access

    _write_access = _access

    def _recover(self, ended: SessionEnded) -> bool:  # noqa: ARG002
        """Continue with the session's new id, if a login has replaced the one that this store has."""
        try:
            self._state.owner = self._storage.current(self._state.owner, self._access())
        except SessionEnded:
            return False
        return True
