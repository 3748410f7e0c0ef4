"""What has been done with a store, which the response has to tell the browser and the caches."""

from __future__ import annotations

import math
from collections.abc import Callable


class Trace:
    """The session that a store belongs to, and what the store was used for.

    ``session_id`` is the present one, None for a user's store; ``ends_at`` is when its lifetime ends, in seconds since
    the epoch; ``counts_as_use`` is asked whether what is done keeps it alive. ``is_new`` tells that it began with this
    request, ``is_answered`` that the headers of the response were sent, ``is_out_of_reach`` that the browser never
    sends the cookie to this path; ``ended_at`` is when it was found to have ended.
    """

    ends_at = math.inf
    counts_as_use: Callable[[], bool] | None = None
    is_new = False
    is_answered = False
    is_out_of_reach = False
    was_used = False
    was_written = False
    was_destroyed = False
    ended_at: float | None = None

    def __init__(self, session_id: str | None = None) -> None:
        self.session_id = session_id
