"""What a request has done with its store, which the response has to tell the browser and the caches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Trace:
    """``session_id`` is the store's present one; ``ended_at`` is when its session was found to have ended."""

    session_id: str | None = None
    was_used: bool = False
    was_written: bool = False
    was_destroyed: bool = False
    ended_at: float | None = None
