"""A value to bytes and back, authenticated.

Unpickling runs code, so no byte is unpickled before its MAC shows that this app wrote it, for this owner
and under this key. The MAC follows the data, for a pickle stops at its own end mark: stock sqlitedict reads
the rows of this package, and ignores what follows.
"""

from __future__ import annotations

import hmac
import json
import pickle
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

from .errors import TamperedValue, UnreadableValue, UnstorableValue

MAC_BYTES = 32


class Seal:
    """A keyed BLAKE2b (RFC 7693) over owner, key and data.

    :param secrets: app secrets, the current one first; it seals, and each of them opens. Without any,
        nothing is authenticated.
    :param purpose: at most 16 bytes that keep apart what must not be mistaken for each other
    """

    def __init__(self, secrets: Sequence[bytes], purpose: bytes) -> None:
        self._hashes = [
            blake2b(key=hmac.digest(secret, b"flask_dash_store.value", "sha256"), digest_size=MAC_BYTES, person=purpose)
            for secret in secrets
        ]

    def close(self, owner: str, key: str, data: bytes) -> bytes:
        """The data with its MAC behind it."""
        if not self._hashes:
            return data
        return data + self._mac(self._hashes[0], owner, key, data)

    def open(self, owner: str, key: str, payload: bytes) -> bytes:
        """The data of a payload.

        :raises TamperedValue: when no secret gives the MAC it carries
        """
        if not self._hashes:
            return payload
        data, mac = payload[:-MAC_BYTES], payload[-MAC_BYTES:]
        for keyed in self._hashes:
            if hmac.compare_digest(self._mac(keyed, owner, key, data), mac):
                return data
        raise TamperedValue(
            f"The value stored under {key!r} was not written by this app for {owner[:10]}… under this key: it was "
            "changed, moved, or written with another codec or with a SECRET_KEY that SECRET_KEY_FALLBACKS lacks."
        )

    @staticmethod
    def _mac(keyed: blake2b, owner: str, key: str, data: bytes) -> bytes:
        # An owner holds no "/", and the length tells where the key ends: no two places share a message.
        place = f"{owner}/{key}".encode()
        mac = keyed.copy()
        mac.update(len(place).to_bytes(4, "big") + place)
        mac.update(data)
        return mac.digest()


class Codec(Protocol):
    """Turns values into payloads, bound to where they are stored, and back."""

    def encode(self, owner: str, key: str, value: Any) -> bytes:
        """The payload of a value.

        :raises UnstorableValue: when the value cannot be turned into bytes
        """

    def decode(self, owner: str, key: str, payload: bytes) -> Any:
        """The value of a payload.

        :raises TamperedValue: when the payload was not encoded for this owner and key
        :raises UnreadableValue: when it is authentic but cannot be turned back
        """

    def reseal(self, owner: str, new_owner: str, key: str, payload: bytes) -> bytes:
        """The payload of the same value for another owner; the value itself is not looked at.

        :raises TamperedValue: when the payload was not encoded for this owner and key
        """


class _SealedCodec:
    purpose: bytes

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._seal = Seal(secrets, self.purpose)

    def encode(self, owner: str, key: str, value: Any) -> bytes:
        try:
            data = self._dumps(value)
        except Exception as error:
            raise UnstorableValue(
                f"The value for {key!r}, a {type(value).__qualname__}, cannot be stored: "
                f"{type(error).__name__}. {self._takes}"
            ) from error
        return self._seal.close(owner, key, data)

    def decode(self, owner: str, key: str, payload: bytes) -> Any:
        data = self._seal.open(owner, key, payload)
        try:
            return self._loads(data)
        except Exception as error:
            raise UnreadableValue(
                f"The value stored under {key!r} cannot be read back ({type(error).__name__}): its class may have "
                "been moved, renamed or changed. Delete the key, or bring the class back."
            ) from error

    def reseal(self, owner: str, new_owner: str, key: str, payload: bytes) -> bytes:
        return self._seal.close(new_owner, key, self._seal.open(owner, key, payload))

    _takes: str

    @staticmethod
    def _dumps(value: Any) -> bytes:
        raise NotImplementedError

    @staticmethod
    def _loads(data: bytes) -> Any:
        raise NotImplementedError


class PickleCodec(_SealedCodec):
    """Any picklable value."""

    purpose = b"pickle"
    _takes = "Any picklable value can be; functions defined inline, locks, connections and generators cannot."

    @staticmethod
    def _dumps(value: Any) -> bytes:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    @staticmethod
    def _loads(data: bytes) -> Any:
        return pickle.loads(data)


class JsonCodec(_SealedCodec):
    """What JSON can say; a tuple comes back as a list, and pickle is never called."""

    purpose = b"json"
    _takes = "With USER_STORE_CODEC = 'json' it must be made of dict, list, str, int, finite float, bool and None."

    @staticmethod
    def _dumps(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    @staticmethod
    def _loads(data: bytes) -> Any:
        return json.loads(data)


CODECS: dict[str, type[PickleCodec] | type[JsonCodec]] = {"pickle": PickleCodec, "json": JsonCodec}
