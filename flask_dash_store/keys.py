"""Which keys a store takes."""

from __future__ import annotations

import re

from .errors import InvalidKey, InvalidKeyType

DEFAULT_MAX_KEY_LENGTH = 512

_REFUSED = re.compile("[\0/%\ud800-\udfff]")


def check_key(key: object, max_length: int = DEFAULT_MAX_KEY_LENGTH) -> str:
    """The key, if it can be one.

    :raises InvalidKeyType: when it is no str
    :raises InvalidKey: when it is empty, longer than ``max_length`` characters, or holds NUL, ``/``, ``%`` or a
        lone surrogate
    """
    if not isinstance(key, str):
        raise InvalidKeyType(f"A key is a str, not {type(key).__name__}.")
    if not 1 <= len(key) <= max_length:
        raise InvalidKey(
            f"A key has 1 to {max_length} characters, this one {len(key)}; "
            "USER_STORE_MAX_KEY_LENGTH (max_key_length=) sets the limit."
        )
    refused = _REFUSED.search(key)
    if refused:
        raise InvalidKey(f"The key {key!a} holds {refused[0]!a}; NUL, '/', '%' and surrogates are refused.")
    return key
