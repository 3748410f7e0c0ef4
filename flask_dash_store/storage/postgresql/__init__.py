"""The storage on PostgreSQL."""

from __future__ import annotations

from ..base import Storage, StorageOptions
from .storage import PostgresqlStorage

__all__ = ["PostgresqlStorage", "open_url"]


def open_url(url: str, options: StorageOptions) -> Storage:
    """The storage that a ``postgresql://`` URL names; the errors are those of :class:`PostgresqlStorage`."""
    return PostgresqlStorage(url, limits=options.limits, timeout=options.timeout, synchronous=options.synchronous)
