"""What has been done with a store, which the response has to tell the browser and the caches."""

from __future__ import annotations


class Trace:
    """What a store was used for, and the session that it belongs to.

    ``session_id`` is the present one, None for a user's store; ``is_new`` tells that it began with this request,
    ``is_answered`` that the headers of the response were sent, ``is_out_of_reach`` that the browser never sends the
    cookie to this path; ``ended_at`` is when it was found to have ended.
    """

    was_used = False
    was_written = False
    was_destroyed = False
    ended_at: float | None = None
    is_new = False
    is_answered = False
    is_out_of_reach = False

    def __init__(self, session_id: str | None = None) -> None:
        self.session_id = session_id
