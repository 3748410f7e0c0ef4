"""The MAC that shows that this app wrote a value, for this owner and under this key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import blake2b

from .errors import TamperedValue

MAC_BYTES = 32


class Signer:
    """A keyed BLAKE2b (RFC 7693) over owner, key and data.

    :param secrets: app secrets, the current one first; it signs, and each of them verifies. Without any, nothing is
        authenticated.
    :param purpose: at most 16 bytes that keep apart what must not be mistaken for each other
    """

    def __init__(self, secrets: Sequence[bytes], purpose: bytes) -> None:
        self._hashes = [
            blake2b(key=hmac.digest(secret, b"flask_dash_store.value", "sha256"), digest_size=MAC_BYTES, person=purpose)
            for secret in secrets
        ]

    def sign(self, owner: str, key: str, data: bytes) -> bytes:
        """The data with its MAC behind it."""
        if not self._hashes:
            return data
        return data + _mac(self._hashes[0], owner, key, data)

    def verify(self, owner: str, key: str, payload: bytes) -> bytes:
        """The data of a payload.

        :raises TamperedValue: when no secret gives the MAC it carries
        """
        if type(payload) is bytes:
            if not self._hashes:
                return payload
            data, mac = payload[:-MAC_BYTES], payload[-MAC_BYTES:]
            for keyed in self._hashes:
                if hmac.compare_digest(_mac(keyed, owner, key, data), mac):
                    return data
        raise tampered(owner, key)


def _mac(keyed: blake2b, owner: str, key: str, data: bytes) -> bytes:
    # Neither an owner nor a key holds a "/", so no two values share a message.
    mac = keyed.copy()
    mac.update(f"{owner}/{key}/".encode())
    mac.update(data)
    return mac.digest()


def tampered(owner: str, key: str) -> TamperedValue:
    """The error for a value that no secret verifies."""
    return TamperedValue(
        f"The value stored under {key!r} was not written by this app for {owner[:10]}… under this key: it was "
        "changed, moved, or written with another codec or with a SECRET_KEY that SECRET_KEY_FALLBACKS lacks.",
        key=key,
    )
