"""The storage on Redis or Valkey: one server, Sentinel's, or a cluster."""

from __future__ import annotations

from ..base import StorageOptions
from .storage import RedisStorage

__all__ = ["RedisStorage", "open_url"]


def open_url(url: str, options: StorageOptions) -> RedisStorage:
    """The storage that a URL names, with an app's options."""
    return RedisStorage(url, limits=options.limits, timeout=options.timeout, keep_ended=options.keep_ended)
