"""The MAC that proves that this app wrote a value for this owner and key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import blake2b

from .errors import TamperedValue

MAC_BYTES = 32


class Signer:
    """A keyed BLAKE2b (RFC 7693) over owner, key and data.

    :param secrets: the app's secrets. The first one signs, and each of them verifies. Without any, nothing is
        authenticated.
    :param purpose: at most 16 bytes. Data that are signed for one purpose do not verify for another.
    """

    def __init__(self, secrets: Sequence[bytes], purpose: bytes) -> None:
        self._hashes = [
            blake2b(key=hmac.digest(secret, b"flask_dash_store.value", "sha256"), digest_size=MAC_BYTES, person=purpose)
            for secret in secrets
        ]

    def sign(self, owner: str, key: str, data: bytes) -> bytes:
        """The data, followed by its MAC."""
        if not self._hashes:
            return data
        return data + _mac(self._hashes[0], owner, key, data)

    def verify(self, owner: str, key: str, payload: bytes) -> bytes:
        """The data of a payload.

        :raises TamperedValue: if no secret gives its MAC
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
    # No two values have the same message: neither owners nor an app's keys contain a "/", and data do not begin like
    # the rest of one of the package's own keys ("tab/...").
    mac = keyed.copy()
    mac.update(f"{owner}/{key}/".encode())
    mac.update(data)
    return mac.digest()


def tampered(owner: str, key: str) -> TamperedValue:
    """The error for a value that no secret verifies."""
    return TamperedValue(
        f"This app did not write the value stored under {key!r} for {owner[:10]}…. It was changed or moved, or written "
        "with another codec, or with a SECRET_KEY that is missing from SECRET_KEY_FALLBACKS.",
        key=key,
    )
