"""Whose store is the present one where no Flask request says so: the visitor's of an ASGI request, or a job's.

It is a context variable, so that tasks, threads that are given a copy of the context, and streaming responses find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .user_store import UserStore

current_store: ContextVar[UserStore | None] = ContextVar("flask_dash_store.current_store", default=None)
"""The store of the ASGI request or the job that this context belongs to; None where it belongs to neither."""


@contextmanager
def context_with(store: UserStore) -> Iterator[None]:
    """A block in which this is the present store."""
    token = current_store.set(store)
    try:
        yield
    finally:
        current_store.reset(token)
