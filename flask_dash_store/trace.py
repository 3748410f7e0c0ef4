"""What has been done with a store, which the response has to tell the browser and the caches."""

from __future__ import annotations


class Trace:
    """``session_id`` is the store's present session, None for a user's; ``is_new`` tells that it began with this
    request; ``ended_at`` is when it was found to have ended.
    """

    was_used = False
    was_written = False
    was_destroyed = False
    ended_at: float | None = None
    is_new = False

    def __init__(self, session_id: str | None = None) -> None:
        self.session_id = session_id
