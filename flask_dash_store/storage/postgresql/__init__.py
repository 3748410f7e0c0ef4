"""The storage on PostgreSQL."""

from .storage import PostgresqlStorage

__all__ = ["PostgresqlStorage"]
