"""The storage on Redis or Valkey: one server, Sentinel's, or a cluster."""

from .storage import RedisStorage

__all__ = ["RedisStorage"]
