"""How much the values of one owner may take, and what is said to who wants more."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import QuotaExceeded, TooManyKeys

DEFAULT_MAX_BYTES = 2**30
DEFAULT_MAX_KEYS = 100_000
DEFAULT_TIMEOUT = 5.0


class Limits(NamedTuple):
    """What the values of one owner may take: bytes, with those of their keys, and keys."""

    max_bytes: int
    max_keys: int

    def refusal(
        self, key: str, more_bytes: int, more_keys: int, taken_bytes: int, taken_keys: int
    ) -> QuotaExceeded | TooManyKeys:
        """What a key is refused with that needs so much more than is taken, and for which there is no room."""
        if more_keys and taken_keys + more_keys > self.max_keys:
            return self.too_many_keys(key)
        return self.quota_exceeded(key, more_bytes, taken_bytes)

    def too_many_keys(self, key: str) -> TooManyKeys:
        """What a key is refused with that is one too many."""
        return TooManyKeys(
            f"{key!r} would be one key more than the {self.max_keys} that one owner may have. Delete keys, "
            "keep many small things in one value, or raise USER_STORE_MAX_KEYS (max_keys=)."
        )

    def quota_exceeded(self, key: str, nbytes: int, taken: int) -> QuotaExceeded:
        """What a value is refused with that needs ``nbytes`` more where ``taken`` are taken."""
        return QuotaExceeded(
            f"The value for {key!r} needs {nbytes} bytes more. The values of one owner may take "
            f"{self.max_bytes} bytes, and {taken} are taken. Delete keys, or raise "
            "USER_STORE_MAX_BYTES (max_bytes=)."
        )
